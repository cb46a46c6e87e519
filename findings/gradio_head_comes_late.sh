#!/usr/bin/env bash
# gradio 6.31.0: elements that are given to launch(head=...).
#
# The page as it is served has none of them among its elements. They are text in the configuration that a script of the
# page holds, and the page's scripts put them into the head when these have loaded. So a preload, a preconnect, a style
# of the first paint or a meta tag that a crawler reads comes after what it is for.
#
# Seen:
#   elements in the page as served: 0, named in a script of it: yes
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check gradio==6.31.0
seen=$(GRADIO_ANALYTICS_ENABLED=False "$work/venv/bin/python" - <<'PYTHON' 2>/dev/null | grep -E "^elements "
from html.parser import HTMLParser
from urllib.request import urlopen

import gradio as gr


class Page(HTMLParser):
    elements, scripts = 0, ""

    def handle_starttag(self, tag, attributes):
        self.elements += ("href", "probe.png") in attributes

    def handle_data(self, text):
        self.scripts += text


with gr.Blocks() as blocks:
    gr.Markdown("A page.")
head = '<link rel="preload" as="image" href="probe.png">'
_, url, _ = blocks.launch(head=head, prevent_thread_lock=True, quiet=True)
page = Page()
page.feed(urlopen(url).read().decode())
named = "yes" if "probe.png" in page.scripts else "no"
print(f"elements in the page as served: {page.elements}, named in a script of it: {named}")
blocks.close(verbose=False)
PYTHON
)
echo "$seen"
[ "$seen" = "elements in the page as served: 0, named in a script of it: yes" ]

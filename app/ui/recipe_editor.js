// Draws presets, methods and knobs. `element`, `props` and `watch` are given by gradio, which runs this once.
const WORDS = {
  cache: "Cache", attention: "Attention", guidance: "Guidance", sampler: "Sampler", precision: "Precision", resolution: "Resolution",
};

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function commit(change) {
  props.value = { ...props.value, preset: "", ...change };
}

function setKnob(lever, name, value) {
  const levers = structuredClone(props.value.levers);
  levers[lever].values[name] = value;
  commit({ levers });
  markPreset();
}

function setMethod(lever, method) {
  const levers = structuredClone(props.value.levers);
  if (method) {
    const knobs = props.schema[lever][method];
    levers[lever] = { method, values: Object.fromEntries(knobs.map((knob) => [knob.name, knob.default])) };
  } else delete levers[lever];
  commit({ levers });
  draw();
}

function markPreset() {
  for (const button of element.querySelectorAll("[data-preset]")) {
    button.setAttribute("aria-pressed", String(button.dataset.preset === props.value.preset));
  }
  const chosen = props.presets.find((preset) => preset.name === props.value.preset);
  element.querySelector(".promise").textContent = chosen ? `Fidelity: ${chosen.promise}.` : "Your own recipe.";
}

function presetRow() {
  const buttons = props.presets.map((preset) => {
    const button = make("button", { type: "button", "data-preset": preset.name, title: preset.promise }, preset.name);
    button.onclick = () => {
      props.value = structuredClone(preset.value);
      draw();
    };
    return button;
  });
  return make("div", { class: "presets", role: "group", "aria-label": "Preset" }, ...buttons);
}

function number(lever, knob, value) {
  const box = make("input", { type: "number", step: knob.kind === "integer" ? "1" : "any" });
  box.value = value ?? "";
  box.placeholder = "default";
  if (knob.least !== null) box.min = knob.least;
  if (knob.most !== null) box.max = knob.most;
  const read = () => (box.value === "" ? null : Number(box.value));
  box.onchange = () => setKnob(lever, knob.name, read());
  const narrow = knob.least !== null && knob.most !== null && knob.most - knob.least <= 30;
  if (!narrow || value === null) return [box];
  const step = knob.kind === "integer" ? 1 : (knob.most - knob.least) / 100;
  const slider = make("input", { type: "range", "aria-hidden": "true", tabindex: "-1" });
  slider.min = knob.least;
  slider.max = knob.most;
  slider.step = step;
  slider.value = value;
  slider.oninput = () => { box.value = Number(Number(slider.value).toPrecision(6)); };
  slider.onchange = () => setKnob(lever, knob.name, read());
  box.addEventListener("change", () => { slider.value = box.value; });
  return [slider, box];
}

function select(lever, knob, value) {
  const box = make("select", {}, ...knob.choices.map((choice) => make("option", { value: choice }, choice)));
  box.value = value;
  box.onchange = () => setKnob(lever, knob.name, box.value);
  return [box];
}

function flag(lever, knob, value) {
  const box = make("input", { type: "checkbox" });
  box.checked = value;
  box.onchange = () => setKnob(lever, knob.name, box.checked);
  return [box];
}

function text(lever, knob, value) {
  const box = make("input", { type: "text" });
  box.value = value;
  box.onchange = () => setKnob(lever, knob.name, box.value);
  return [box];
}

function control(lever, knob) {
  const kinds = { number, integer: number, choice: select, flag, text };
  const inputs = kinds[knob.kind](lever, knob, props.value.levers[lever].values[knob.name]);
  inputs[inputs.length - 1].setAttribute("aria-label", `${lever} ${knob.name}`);
  // What it does in words, and small what Python calls it.
  const [words, ...more] = (knob.help || knob.name.replaceAll("_", " ")).split("; ");
  const small = make("small", {}, make("code", {}, knob.name), more.length ? ` · ${more.join("; ")}` : "");
  return make("label", { class: `knob ${knob.kind}`, title: knob.help, "data-knob": `${lever}.${knob.name}` },
    make("span", { class: "words" }, make("span", { class: "name" }, words), small),
    make("span", { class: "inputs" }, ...inputs));
}

// What stands between backticks is code.
function quoted(words) {
  return words.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

function leverBlock(lever, methods) {
  const chosen = props.value.levers[lever];
  const first = props.first[lever];
  const names = Object.keys(methods).sort((one, other) => (other === first) - (one === first));
  const options = names.map((name) => [name, name]);
  if (chosen && !methods[chosen.method]) options.push([chosen.method, `${chosen.method} (as it is)`]);
  const drawn = options.map(([value, words]) => make("option", { value }, words));
  if (names.includes(first)) {
    drawn.splice(0, drawn.length, make("optgroup", { label: "take this first" }, drawn[0]),
      ...(drawn.length > 1 ? [make("optgroup", { label: "others" }, ...drawn.slice(1))] : []));
  }
  const box = make("select", { "aria-label": `${WORDS[lever]} method` }, make("option", { value: "" }, "off"), ...drawn);
  box.value = chosen ? chosen.method : "";
  box.onchange = () => setMethod(lever, box.value);
  const block = make("div", { class: "lever", "data-lever": lever },
    make("label", { class: "method" }, make("b", {}, WORDS[lever]), box));
  if (!chosen || !methods[chosen.method]) return block;
  const knobs = methods[chosen.method];
  const dials = knobs.filter((knob) => knob.first);
  const others = knobs.filter((knob) => !knob.first);
  block.append(make("p", { class: "told" }, ...quoted(props.told[lever][chosen.method])));
  block.append(...(dials.length ? dials : others).map((knob) => control(lever, knob)));
  if (dials.length && others.length) {
    const fold = make("details", {}, make("summary", {}, `${others.length} more`));
    fold.append(...others.map((knob) => control(lever, knob)));
    block.append(fold);
  }
  return block;
}

function draw() {
  const open = [...element.querySelectorAll("details[open]")].map((fold) => fold.parentElement.dataset.lever);
  const blocks = Object.entries(props.schema).map(([lever, methods]) => leverBlock(lever, methods));
  element.querySelector(".recipe").replaceChildren(
    presetRow(), make("p", { class: "promise" }), make("div", { class: "levers" }, ...blocks));
  for (const block of blocks) {
    if (open.includes(block.dataset.lever) && block.querySelector("details")) block.querySelector("details").open = true;
  }
  markPreset();
}

watch("value", draw);
draw();

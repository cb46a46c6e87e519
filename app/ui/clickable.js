// `element` and `trigger` are given by gradio, which runs this once; the content below may change.
function choose(event) {
  const chosen = event.target.closest("[data-index]");
  if (!chosen) return;
  event.preventDefault();
  trigger("select", { index: Number(chosen.dataset.index) });
}
element.addEventListener("click", choose);
element.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") choose(event);
});

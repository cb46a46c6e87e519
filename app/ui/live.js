// Shows the value, and says in words what is new of it to who listens: `element`, `props` and `watch` are gradio's.
function load() {
  const shown = element.querySelector(".shown");
  shown.innerHTML = props.value || "";
  const telling = shown.querySelector("[data-said]");
  const words = telling ? telling.dataset.said : "";
  const heard = element.querySelector(".heard");
  if (words && words !== heard.textContent) heard.textContent = words;
}
watch("value", load);
load();

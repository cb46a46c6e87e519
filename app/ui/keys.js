// Keys of the blind vote, wherever the focus is but in a box: those of the buttons that can be seen and pressed.
() => {
  const buttons = { a: "vote-A", b: "vote-B", s: "vote-same", n: "next-pair" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    const button = document.getElementById(buttons[event.key.toLowerCase()]);
    if (!button || button.disabled || button.offsetParent === null) return;
    event.preventDefault();
    button.click();
  });
}

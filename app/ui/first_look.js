// The example, before there is a page: drawn over it until its own viewer has drawn, or for half a minute at most.
(clip) => {
  const cover = document.createElement("div");
  cover.id = "first-look";
  cover.innerHTML = clip.html;
  document.body.append(cover);
  const canvases = [...cover.querySelectorAll("canvas")];
  const images = clip.sheets.map((url, side) => {
    const image = new Image();
    image.onload = () => draw(side);
    image.src = url;
    return image;
  });
  let frame = Math.floor(clip.frames / 2);

  function draw(side) {
    const { width, height, columns } = clip;
    const [x, y] = [(frame % columns) * width, Math.floor(frame / columns) * height];
    if (images[side].complete) canvases[side].getContext("2d").drawImage(images[side], x, y, width, height, 0, 0, width, height);
    cover.dataset.drawn = images.every((image) => image.complete) ? "yes" : "";
  }
  const playing = setInterval(() => {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    frame = (frame + 1) % clip.frames;
    images.forEach((_, side) => draw(side));
  }, 1000 / clip.fps);
  const arrived = new MutationObserver(() => { if (document.querySelector(".stage-column [data-ready=yes]")) leave(); });
  const late = setTimeout(leave, 30000);

  function leave() {
    arrived.disconnect();
    clearInterval(playing);
    clearTimeout(late);
    cover.remove();
  }
  arrived.observe(document.body, { subtree: true, childList: true, attributeFilter: ["data-ready"] });
}

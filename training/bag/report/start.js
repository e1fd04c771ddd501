// Brings the page to life: what leads where.
const report = JSON.parse(document.getElementById("data").textContent);
const images = JSON.parse(document.getElementById("images").textContent);

document.querySelectorAll("table.sortable").forEach(makeSortable);
const filter = document.getElementById("filter");
if (filter) makeFilter(filter);
for (const image of document.querySelectorAll("img[data-image]")) image.src = images[image.dataset.image];

if (report.recordings.length) {
  const viewer = new Viewer(report, images, (frame) => timeline.moveCursor(frame.t));
  const timeline = new Timeline(document.getElementById("timeline"), report, (seconds) => {
    viewer.stop();
    viewer.show(viewer.nearest(seconds));
  });
  const select = document.getElementById("recording");

  const open = (recording, frame) => {
    select.value = recording;
    if (timeline.recording !== recording) timeline.show(recording);
    viewer.open(recording, frame);
    for (const button of document.querySelectorAll("button.link[data-recording]")) {
      const row = button.closest("tr");
      if (Number(button.dataset.recording) === recording) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  };
  select.addEventListener("change", () => open(Number(select.value)));
  for (const button of document.querySelectorAll("button[data-recording]")) {
    button.addEventListener("click", () => {
      open(Number(button.dataset.recording), Number(button.dataset.frame ?? 0));
      const isFrame = button.dataset.frame !== undefined;
      document.getElementById(isFrame ? "viewer" : "time").scrollIntoView();
      if (isFrame) viewer.slider.focus({ preventScroll: true });
      else select.focus({ preventScroll: true });
    });
  }
  for (const box of document.querySelectorAll("input[data-shown]")) {
    box.addEventListener("change", () => timeline.toggle(Number(box.dataset.shown), box.checked));
  }
  timeline.recording = 0;
  drawnByTheme((width) => timeline.draw(width));
  open(0);
}
const confusions = [...document.querySelectorAll(".confusion")];
drawnByTheme((width) => confusions.forEach((div) => drawConfusion(div, report, width)));
window.addEventListener("resize", () => confusions.forEach((div) => drawConfusion(div, report)));
document.documentElement.dataset.ready = "";

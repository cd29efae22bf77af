"use strict";
// Scrubbers: one tall picture of all frames, moved behind a window one frame high.
for (const box of document.querySelectorAll(".scrubber")) {
  const frame = box.querySelector(".frame"), picture = frame.querySelector("img");
  const slider = box.querySelector("input"), button = box.querySelector("button"), output = box.querySelector("output");
  const steps = JSON.parse(box.dataset.steps), dt = Number(box.dataset.dt);
  const ratio = Number(box.dataset.height) / Number(box.dataset.width);
  let timer = null;
  const show = () => {
    const i = Number(slider.value), height = frame.clientWidth * ratio;
    frame.style.height = height + "px";
    picture.style.width = frame.clientWidth + "px";
    picture.style.transform = "translateY(" + -i * height + "px)";
    const text = "step " + steps[i] + ", time " + Number((steps[i] * dt).toPrecision(4));
    output.textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  slider.max = steps.length - 1;
  slider.disabled = button.disabled = false;
  slider.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    button.textContent = "Stop";
    timer = setInterval(() => { slider.value = (Number(slider.value) + 1) % steps.length; show(); }, 150);
  });
  new ResizeObserver(show).observe(frame);
  show();
}

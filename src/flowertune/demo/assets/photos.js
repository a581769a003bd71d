// Photos that are dropped anywhere or pasted go where a chosen file does, all but those too large.
// MEBIBYTES is set before.

const waiting = [];

function take(files) {
  const large = files.filter((file) => file.size > MEBIBYTES * 2 ** 20);
  const names = large.map((file) => file.name).join(", ");
  const refused = document.querySelector("#refused");
  if (refused) refused.textContent = names && `Left out, as larger than ${MEBIBYTES} MiB: ${names}`;
  const small = files.filter((file) => !large.includes(file));
  if (small.length) waiting.push(small);
  hand();
}

// One lot after the other: while Gradio shows the files of one (and a small place, "icon-mode", to
// add to them), it would take those of the next for more of the same.
function hand() {
  if (!waiting.length) return;
  const place = document.querySelector("#photos .upload-container:not(.icon-mode) input[type=file]");
  if (!place || place.dataset.handed) return void setTimeout(hand, 100);
  const lot = new DataTransfer();
  for (const file of waiting.shift()) lot.items.add(file);
  place.dataset.handed = "yes";
  place.files = lot.files;
  place.dispatchEvent(new Event("change", { bubbles: true }));
  hand();
}

addEventListener("change", (event) => {
  if (!event.isTrusted || !event.target.matches("#photos input[type=file]")) return;
  event.stopImmediatePropagation();
  take([...event.target.files]);
}, true);

addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  take(files);
});

for (const kind of ["dragover", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault(); // else the browser would leave the page and open the file
    if (kind === "dragover") return;
    event.stopImmediatePropagation();
    take([...(event.dataTransfer?.files ?? [])]);
  }, true);
}

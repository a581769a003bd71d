// Upload images that are dropped anywhere or pasted like chosen ones, except those too large.
// MEBIBYTES is set before.

const waiting = [];

function take(files) {
  const large = files.filter((file) => file.size > MEBIBYTES * 2 ** 20);
  const names = large.map((file) => file.name).join(", ");
  const refused = document.querySelector("#refused");
  if (refused) refused.textContent = names && `Left out (larger than ${MEBIBYTES} MiB): ${names}`;
  const small = files.filter((file) => !large.includes(file));
  if (small.length) waiting.push(small);
  hand();
}

// One set of files at a time: while Gradio shows a set (with an "icon-mode" box to add to it), it
// would add the next set to it.
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
    event.preventDefault(); // otherwise the browser opens the file
    if (kind === "dragover") return;
    event.stopImmediatePropagation();
    take([...(event.dataTransfer?.files ?? [])]);
  }, true);
}

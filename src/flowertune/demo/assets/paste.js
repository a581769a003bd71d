// A pasted picture goes where a chosen file does.
addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  const place = document.querySelector("#photos input[type=file]");
  if (!files.length || !place) return;
  event.preventDefault();
  const pasted = new DataTransfer();
  for (const file of files) pasted.items.add(file);
  place.files = pasted.files;
  place.dispatchEvent(new Event("change", { bubbles: true }));
});

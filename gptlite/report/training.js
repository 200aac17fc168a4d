// All charts anew, as wide as there is room.
async function draw() {
  for (const id of Object.keys(specs)) {
    const width = byId(id).clientWidth;
    const height = id === "map" ? Math.min(620, width) : id === "bits" ? Math.min(340, width * 0.8) : 220;
    await drawChart(id, { width, height });
  }
  document.body.dataset.shown = Object.keys(specs).length;
}

begin(draw);

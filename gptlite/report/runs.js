// All charts anew, as wide as there is room.
async function draw() {
  for (const id of Object.keys(specs)) {
    const width = byId(id).clientWidth;
    await drawChart(id, { width, height: Math.min(360, Math.max(240, width * 0.6)) });
  }
  document.body.dataset.shown = Object.keys(specs).length;
}

switchAxes(draw);
begin(draw);

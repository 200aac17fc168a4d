// All charts anew, as wide as there is room; the cells of a map are as high as wide, within reason.
async function draw() {
  for (const id of Object.keys(specs)) {
    const width = byId(id).clientWidth;
    const shape = data.maps[id];
    const side = shape && Math.min(width, 130 + 34 * shape.columns);
    const height = shape
      ? 110 + shape.rows * Math.min(30, Math.max(16, (side - 130) / shape.columns))
      : id === "exact" ? 60 + 46 * data.bars : Math.min(360, Math.max(240, width * 0.6));
    await drawChart(id, { width: side ?? width, height });
  }
  document.body.dataset.shown = Object.keys(specs).length;
}

begin(draw);

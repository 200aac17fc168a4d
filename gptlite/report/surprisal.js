// All charts anew, as wide as there is room, but never so narrow that words overlap.
async function draw() {
  for (const id of Object.keys(specs)) {
    const room = byId(id).parentElement.clientWidth;
    byId(id).style.width = `${Math.max(room, data.widths[id] + 60)}px`;
    await drawChart(id, { width: Math.max(room, data.widths[id] + 60), height: data.height + 110 });
  }
  document.body.dataset.shown = Object.keys(specs).length;
}

begin(draw);

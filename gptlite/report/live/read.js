// The view "Look inside": a text that is typed here, as the components show it.

async function readText() {
  const given = byId("text").value;
  const encoded = await remote("encode", given);
  const most = Math.min(model.config.context_length, MOST_SHOWN) - 1;
  byId("inside").hidden = encoded.ids.length === 0;
  byId("look-note").textContent = encoded.ids.length === 0 ? label("empty")
    : encoded.ids.length > most ? label("tooLong", most, count(encoded.ids.length)) : "";
  if (encoded.ids.length === 0) return;
  const ids = [model.special.separator, ...encoded.ids.slice(0, most)];
  const { bits } = await remote("start", "look", ids);
  const maps = await remote("maps", "look", ids.length);
  await explore({ ids, bits, maps, mapped: ids.length, at: lastWord(ids) });
  for (let t = 0; t + 1 < ids.length && looking.ids === ids; t += 1) {
    looking.lens[t + 1] = await remote("lens", "look", t, ids[t + 1]);
    drawColumn(t + 1);
  }
  if (looking.ids === ids) tellChosen();
}

parts.look = {
  begin() {
    looking.layer = model.config.n_layers - 1;
    looking.depth = model.config.n_layers;
    byId("look-form").addEventListener("submit", readText);
    startLooking();
  },
  async shown() {
    if (looking.maps) return choose({});
    const written = writing.ids.slice(writing.hidden).filter((id) => !isEnd(id));
    const decode = decoder();
    byId("text").value ||= written.map(decode).join("").slice(0, 160).trim() || model.prompt;
    return readText();
  },
  resized: resizedLook,
  label() {
    if (!looking.maps) return;
    drawGrid();
    drawHeads();
    choose({});
  },
};

// The model in a worker of the page.

const engine = {
  waiting: new Map(),
  worker: null,
  asked: 0,
  stream: null, // tokens are drawn in the page
  about: "aboutLine",
  failed: "failed",

  // Unpack the model; what it says of itself.
  async begin() {
    const source = new Blob([`"use strict";\n${byId("worker").textContent}`], { type: "text/javascript" });
    const address = URL.createObjectURL(source);
    this.worker = new Worker(address);
    this.worker.addEventListener("message", ({ data: [id, value, error] }) => {
      const [resolve, reject] = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === null) resolve(value);
      else reject(new Error(error));
    });
    URL.revokeObjectURL(address);
    const loaded = await this.call("load", byId("model").textContent);
    byId("model").textContent = "";
    return loaded;
  },

  call(name, ...values) {
    this.asked += 1;
    const mine = this.asked;
    return new Promise((resolve, reject) => {
      this.waiting.set(mine, [resolve, reject]);
      this.worker.postMessage([mine, name, values]);
    });
  },
};

// Interactive curves (vega-lite). The data: {spec, choices: [{name, parameter, options}]}; a choice sets a parameter of
// the plot. Clicking on a method in the legend keeps it alone; with shift several.
"use strict";
(async () => {
  for (const library of packed.libraries) await addScript(library);
  const data = JSON.parse(await unpack(packed.data));
  const width = Math.max(360, Math.min(900, window.innerWidth - 330));
  const spec = { ...data.spec, width, height: Math.round(0.52 * width) };
  const shown = await window.vegaEmbed("#content", spec, { mode: "vega-lite", actions: { export: true, source: false,
    compiled: false, editor: false }, downloadFileName: data.name, renderer: "svg" });
  for (const { name, parameter, options } of data.choices) {
    choice(name, options, options[0][0], (value) => shown.view.signal(parameter, value).runAsync());
  }
  window.view = shown.view;
  ready();
})().catch(failed);

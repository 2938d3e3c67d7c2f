// A sortable, filterable table (DataTables). The data: {columns: [{title, kind}], rows, hidden, filters}. A cell of kind
// "number" is a number or null, one of kind "interval" is [value, low, high] and sorts by its value.
"use strict";
(async () => {
  for (const style of packed.styles) await addStyle(style);
  const { default: DataTable } = await addModule(packed.library);
  const data = JSON.parse(await unpack(packed.data));
  const escape = (value) => String(value ?? "").replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
  const number = (value, digits) => (value === null ? "" : value.toFixed(digits));
  const show = {
    text: (value) => escape(value),
    number: (value, column) => number(value, column.digits),
    interval: ([value, low, high], column) =>
      value === null ? "" : low === null ? number(value, column.digits)
        : `${number(value, column.digits)} <small>[${number(low, column.digits)}, ${number(high, column.digits)}]</small>`,
  };
  const plain = (value, kind) => (kind === "interval" ? value[0] : value);
  const numeric = (kind) => kind !== "text";
  const columns = data.columns.map((column, index) => ({
    title: escape(column.title),
    data: index,
    visible: !data.hidden.includes(column.title),
    className: numeric(column.kind) ? "dt-right" : "dt-left",
    type: numeric(column.kind) ? "num" : "string",
    orderSequence: numeric(column.kind) ? ["desc", "asc"] : ["asc", "desc"],
    render: (value, type) =>
      type === "display" ? show[column.kind](value, column)
        : type === "export" || type === "filter" ? show[column.kind](value, column).replace(/<[^>]+>/g, "")
        : numeric(column.kind) ? plain(value, column.kind) ?? -Infinity : value,
  }));
  const oneHead = (content) => {  // without the row of search fields
    content.headerStructure = content.headerStructure.slice(0, 1);
  };
  const table = document.createElement("table");
  table.id = "cells";
  table.className = "display compact nowrap";
  table.style.width = "100%";
  document.getElementById("content").append(table);
  const api = new DataTable(table, {
    data: data.rows,
    columns,
    order: data.order,
    pageLength: 25,
    lengthMenu: [10, 25, 100, { label: "all", value: -1 }],
    scrollX: true,
    columnControl: [{ target: 0, content: ["order"] }, { target: 1, content: ["search"] }],
    ordering: { indicators: false, handler: true },
    layout: {
      topStart: ["pageLength", { buttons: ["colvis", { extend: "csv", escapeExcelFormula: true,
        filename: data.name, exportOptions: { orthogonal: "export", customizeData: oneHead } }] }],
      topEnd: { search: { text: "Search all columns: " } },
    },
    language: { info: "_TOTAL_ rows shown", infoFiltered: "of _MAX_", infoEmpty: "no row fits" },
  });
  for (const [title, chosen] of Object.entries(data.filters)) {
    const index = data.columns.findIndex((column) => column.title === title);
    const values = [...new Set(data.rows.map((row) => String(row[index])))].sort();
    const keep = (value) => api.column(index).search(value === "" ? "" : value, { exact: value !== "" }).draw();
    choice(title, [["", "all"], ...values.map((v) => [v, v])], values.includes(chosen) ? chosen : "", keep);
    if (values.includes(chosen)) keep(chosen);
  }
  window.table = api;
  ready();
})().catch(failed);

// One control for each kind of widget.

import type { Value, Widget } from "./protocol.ts";

export interface Control {
  row: HTMLElement;
  note: HTMLElement;
  set: (value: Value) => void;
}

/** Makes the row of a widget; `turned` is told each value that the user gives it. */
export function control(widget: Widget, turned: (value: Value) => void): Control {
  const row = document.createElement("div");
  const label = Object.assign(document.createElement("label"), { textContent: widget.input.replaceAll("_", " ") });
  const note = document.createElement("output");
  label.title = widget.help;
  const { fields, set } = MAKERS[widget.kind](widget, turned);
  const id = `w ${widget.node} ${widget.input}`;
  fields[0]!.id = id;
  label.htmlFor = id;
  row.append(label, ...fields, note);
  row.dataset.place = `${widget.node} ${widget.input}`;
  set(widget.value);
  return { row, note, set };
}

type Maker = (widget: Widget, turned: (value: Value) => void) => { fields: HTMLElement[]; set: (value: Value) => void };

const MAKERS: Record<Widget["kind"], Maker> = {
  number: numeric,
  whole: numeric,
  toggle: (_, turned) => {
    const field = Object.assign(document.createElement("input"), { type: "checkbox" });
    field.onchange = () => turned(field.checked);
    return {
      fields: [field],
      set: (value) => {
        field.checked = Boolean(value);
      },
    };
  },
  choice: (widget, turned) => {
    const field = document.createElement("select");
    const options = widget.options ?? [];
    for (const option of options) field.add(new Option(String(option)));
    field.onchange = () => turned(options[field.selectedIndex]!);
    return {
      fields: [field],
      set: (value) => {
        field.value = String(value);
      },
    };
  },
  text: (widget, turned) => {
    const field = document.createElement(widget.multiline ? "textarea" : "input");
    // typing is not a change yet: a prompt is encoded when it is left, or on Ctrl+Enter
    field.onchange = () => turned(field.value);
    field.onkeydown = (event) => {
      if (event instanceof KeyboardEvent && event.key === "Enter" && event.ctrlKey) turned(field.value);
    };
    return {
      fields: [field],
      set: (value) => {
        field.value = String(value);
      },
    };
  },
  curve: (_, turned) => {
    const field = document.createElement("textarea");
    field.onchange = () => {
      try {
        turned(JSON.parse(field.value));
      } catch {
        field.setCustomValidity("This is no JSON.");
        field.reportValidity();
      }
    };
    return {
      fields: [field],
      set: (value) => {
        field.value = JSON.stringify(value);
      },
    };
  },
};

const SLIDERS = 1e4; // a wider range gets a number field alone

function numeric(widget: Widget, turned: (value: Value) => void): ReturnType<Maker> {
  const { min, max, step } = widget;
  const field = Object.assign(document.createElement("input"), { type: "number" });
  const limits: Record<string, number | undefined> = {
    min,
    max,
    step: step ?? (widget.kind === "whole" ? 1 : undefined),
  };
  const slides = min !== undefined && max !== undefined && max - min <= SLIDERS;
  const slider = Object.assign(document.createElement("input"), { type: "range" });
  for (const [name, limit] of Object.entries(limits)) {
    if (limit === undefined) continue;
    field.setAttribute(name, String(limit));
    slider.setAttribute(name, String(limit));
  }
  const give = (text: string) => {
    if (text !== "" && Number.isFinite(Number(text))) turned(Number(text));
  };
  field.onchange = () => {
    slider.value = field.value;
    give(field.value);
  };
  slider.oninput = () => {
    field.value = slider.value;
    give(slider.value);
  };
  const set = (value: Value) => {
    field.value = slider.value = String(value);
  };
  return { fields: slides ? [slider, field] : [field], set };
}

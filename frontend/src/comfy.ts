// All that the extension asks of ComfyUI's editor, frontends 1.43 to 1.58: nothing else touches its `app`.

export const PACK = "Ostinato"; // node types of the pack begin with it
export const SUBGRAPH_INPUT = -10; // the node id that a subgraph's own inputs come from

export interface Widget {
  name: string;
  type: string;
  value: unknown;
  hidden?: boolean;
  serialize?: boolean;
  options: Record<string, unknown>;
  callback?: (value: unknown) => void;
}

export interface Slot {
  name: string;
  type: string;
  widget?: { name: string };
}

interface Wire {
  origin_id: number | string;
  origin_slot: number;
  target_id: number | string;
  target_slot: number;
}

export interface Node {
  id: number | string;
  title: string;
  type: string;
  mode?: number;
  comfyClass?: string;
  size: [number, number];
  graph: Graph | null;
  subgraph?: Graph;
  inputs: Slot[];
  properties: Record<string, unknown>;
  widgets?: Widget[];
  onRemoved?: () => void;
  isInputConnected(slot: number): boolean;
  getInputLink(slot: number): Wire | null | undefined;
  getWidgetFromSlot(slot: Slot): Widget | undefined;
  addDOMWidget(name: string, type: string, element: HTMLElement, options: Record<string, unknown>): Widget;
  computeSize(): [number, number];
  setSize(size: [number, number]): void;
}

export interface Graph {
  id: string;
  nodes: Node[];
  links: Map<unknown, Wire>;
  getNodeById(id: number | string): Node | null | undefined;
  setDirtyCanvas(foreground: boolean, background: boolean): void;
}

/** An entry of a node's menu, as LiteGraph has it; every canvas shows it. */
export interface MenuItem {
  content: string;
  callback?: () => void;
  has_submenu?: boolean;
  submenu?: { options: MenuItem[] };
}

interface Api extends EventTarget {
  apiURL(path: string): string;
  fetchApi(path: string, options?: RequestInit): Promise<Response>;
}

interface App {
  api: Api;
  graph: Graph;
  rootGraph?: Graph;
  canvas?: { selectedItems: Set<unknown>; emitBeforeChange(): void; emitAfterChange(): void };
  extensionManager: {
    setting: { get(id: string): unknown };
    toast: { add(message: Record<string, unknown>): void };
  };
  registerExtension(extension: Record<string, unknown>): void;
  queuePrompt(number: number, count: number, nodes: string[]): Promise<boolean>;
  graphToPrompt(): Promise<{ output: Record<string, unknown> }>;
}

/** What a node shows after a run, by name. */
export type Output = Record<string, unknown[] | undefined>;

/** The nodes that lead to one: those that hold the subgraphs around it, and itself. */
export type Chain = Node[];

export class Comfy {
  private constructor(private readonly app: App) {}

  /** @param base the address of ComfyUI's page, with a slash at its end */
  static async load(base: string): Promise<Comfy> {
    const { app } = await import(/* @vite-ignore */ `${base}scripts/app.js`);
    return new Comfy(app);
  }

  register(extension: Record<string, unknown>): void {
    this.app.registerExtension(extension);
  }

  get graph(): Graph {
    return this.app.rootGraph ?? this.app.graph;
  }

  setting<T>(id: string, otherwise: T): T {
    return (this.app.extensionManager.setting.get(id) as T | undefined) ?? otherwise;
  }

  /** What the host has of the extension's words in the editor's language, by their English. */
  async words(): Promise<Record<string, string>> {
    const answer = await this.fetch("/i18n").catch(() => null);
    const all: Record<string, { ostinato?: Record<string, string> }> = answer?.ok ? await answer.json() : {};
    return all[this.setting("Comfy.Locale", "en")]?.ostinato ?? {}; // English is in the sources
  }

  tell(text: string, wrong = false): void {
    this.app.extensionManager.toast.add({
      severity: wrong ? "error" : "info",
      summary: PACK,
      detail: text,
      life: 6000,
    });
  }

  /** Calls back with the data of each of the server's messages of a kind. */
  on<T>(kind: string, take: (data: T) => void): void {
    this.app.api.addEventListener(kind, (event) => take((event as CustomEvent<T>).detail));
  }

  fetch(path: string, options?: RequestInit): Promise<Response> {
    return this.app.api.fetchApi(path, options);
  }

  /** The workflow as a run would get it. */
  async prompt(): Promise<Record<string, unknown>> {
    return (await this.app.graphToPrompt()).output;
  }

  socketUrl(path: string): string {
    return new URL(this.app.api.apiURL(path), location.href).href.replace(/^http/, "ws");
  }

  fileUrl(path: string): string {
    return this.app.api.apiURL(path);
  }

  /** Changes the workflow beside its widgets, so that the editor keeps it, for undo and a reload too. */
  change(act: () => void): void {
    this.app.canvas?.emitBeforeChange();
    act();
    this.app.canvas?.emitAfterChange();
  }

  /** The nodes that are selected. */
  get selection(): Node[] {
    const items = this.app.canvas?.selectedItems ?? [];
    return [...this.chains()].map((chain) => chain.at(-1)!).filter((node) => new Set(items).has(node));
  }

  /** Queues what one node needs, and that alone. */
  async queue(id: string): Promise<void> {
    await this.app.queuePrompt(0, 1, [id]);
  }

  /** Every node of the workflow with those around it, subgraphs too. */
  *chains(graph = this.graph, around: Chain = []): Generator<Chain> {
    for (const node of graph.nodes) {
      const chain = [...around, node];
      yield chain;
      if (node.subgraph) yield* this.chains(node.subgraph, chain);
    }
  }

  /** The nodes that an execution id such as "5:12" names; null where they are not in this workflow. */
  chain(id: string): Chain | null {
    const found: Chain = [];
    let graph: Graph | undefined = this.graph;
    for (const part of id.split(":")) {
      const node: Node | null | undefined = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));
      if (!node) return null;
      found.push(node);
      graph = node.subgraph;
    }
    return found;
  }

  /** The node that outputs of `nodeOutputs` belong to: by its id, or by its subgraph's and its own. */
  located(locator: string): Node | null {
    const [inner, id] = locator.includes(":") ? locator.split(":") : ["", locator];
    for (const chain of this.chains()) {
      const node = chain.at(-1)!;
      if (String(node.id) === id && (inner ? node.graph?.id === inner : chain.length === 1)) return node;
    }
    return null;
  }

  /** A node's execution id: that of its first use where its subgraph has several. */
  idOf(node: Node): string | null {
    for (const chain of this.chains()) if (chain.at(-1) === node) return chain.map(({ id }) => id).join(":");
    return null;
  }
}

export function typeOf(node: Node): string {
  return node.comfyClass ?? node.type;
}

export function ours(node: Node): boolean {
  return typeOf(node).startsWith(PACK);
}

/** The wire into an input. A subgraph's node answers `getInputLink` with what is inside it, so there the list is searched. */
export function wireInto(node: Node, slot: number): Wire | null {
  if (!node.graph || !node.isInputConnected(slot)) return null;
  if (!node.subgraph) return node.getInputLink(slot) ?? null;
  for (const wire of node.graph.links.values()) {
    if (String(wire.target_id) === String(node.id) && wire.target_slot === slot) return wire;
  }
  return null;
}

/** What a run would give an input: its widget's value, or that of the widget it is linked to; else undefined. */
export function valueAt(chain: Chain, name: string): unknown {
  return widgetAt(chain, name)?.value;
}

/** Gives that widget a value, as a user would. */
export function setValueAt(chain: Chain, name: string, value: unknown): void {
  const widget = widgetAt(chain, name);
  if (!widget) return;
  widget.value = value;
  widget.callback?.(value);
  chain[0]?.graph?.setDirtyCanvas(true, true);
}

function widgetAt(chain: Chain, name: string): Widget | undefined {
  const node = chain.at(-1)!;
  const index = node.inputs.findIndex((slot) => (slot.widget?.name ?? slot.name) === name);
  const wire = index < 0 ? null : wireInto(node, index);
  if (!wire) return node.widgets?.find((widget) => widget.name === name);
  const around = chain.slice(0, -1);
  const host = around.at(-1);
  if (host && Number(wire.origin_id) === SUBGRAPH_INPUT) {
    const slot = host.inputs[wire.origin_slot];
    if (!slot) return undefined;
    if (!host.isInputConnected(wire.origin_slot)) return host.getWidgetFromSlot(slot);
    return widgetAt(around, slot.widget?.name ?? slot.name);
  }
  const origin = node.graph?.getNodeById(wire.origin_id);
  return origin?.type === "PrimitiveNode" ? origin.widgets?.[0] : undefined;
}

/** Whether a node of the pack is among those that a node takes from. */
export function fromPack(node: Node, seen = new Set<Node>()): boolean {
  if (seen.has(node)) return false;
  seen.add(node);
  if (ours(node)) return true;
  return node.inputs.some((_, index) => {
    const origin = wireInto(node, index)?.origin_id;
    const before = origin === undefined ? null : node.graph?.getNodeById(origin);
    return before ? Boolean(before.subgraph) || fromPack(before, seen) : false;
  });
}

/** Chooses a value in a list that need not have it yet: what was made a moment ago. */
export function choose(node: Node, name: string, value: string): void {
  const widget = node.widgets?.find((one) => one.name === name);
  if (!widget) return;
  const { values } = widget.options;
  if (Array.isArray(values) && !values.includes(value)) widget.options.values = [value, ...values];
  setValueAt([node], name, value);
}

/** Puts an element of ours under a node's widgets; nothing of it is saved. Every canvas shows it. */
export function addElement(node: Node, name: string, element: HTMLElement, height: () => number): Widget {
  const widget = node.addDOMWidget(name, "ostinato", element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: height,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  return widget;
}

/** Makes room for what was added. */
export function grow(node: Node): void {
  const [width, height] = node.computeSize();
  if (node.size[0] < width || node.size[1] < height) {
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  }
  node.graph?.setDirtyCanvas(true, true);
}

/** Calls back when a node leaves its graph; whether for good is not known then. */
export function whenRemoved(node: Node, call: () => void): void {
  const before = node.onRemoved;
  node.onRemoved = function (this: Node) {
    before?.call(this);
    call();
  };
}

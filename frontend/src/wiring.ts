// What leads to a node: which nodes, and what each takes from where. Values of widgets are no part of it.

import { type Chain, type Graph, type Node, SUBGRAPH_INPUT, typeOf, wireInto } from "./comfy.ts";

/** A text of all that leads to a node; where it differs, only a run brings what has changed. Of a subgraph all counts. */
export function wiringOf(chain: Chain): string {
  const parts = new Set<string>();
  visit(chain, parts);
  return [...parts].sort().join("\n");
}

function visit(chain: Chain, parts: Set<string>): void {
  const node = chain.at(-1)!;
  const around = chain.slice(0, -1);
  const place = chain.map(({ id }) => id).join(":");
  if (parts.has(named(place, node))) return;
  parts.add(named(place, node));
  if (node.subgraph) inside(node.subgraph, place, parts);
  for (const [index, { name }] of node.inputs.entries()) {
    const wire = wireInto(node, index);
    if (!wire) continue;
    parts.add(`${place}.${name} < ${wire.origin_id}.${wire.origin_slot}`);
    const origin = node.graph?.getNodeById(wire.origin_id);
    if (Number(wire.origin_id) === SUBGRAPH_INPUT) visit(around, parts);
    else if (origin) visit([...around, origin], parts);
  }
}

function inside(graph: Graph, place: string, parts: Set<string>): void {
  for (const { origin_id, origin_slot, target_id, target_slot } of graph.links.values()) {
    parts.add(`${place}:${target_id}.${target_slot} < ${origin_id}.${origin_slot}`);
  }
  for (const node of graph.nodes) {
    parts.add(named(`${place}:${node.id}`, node));
    if (node.subgraph) inside(node.subgraph, `${place}:${node.id}`, parts);
  }
}

function named(place: string, node: Node): string {
  return `${place} ${typeOf(node)} ${node.mode ?? 0}`; // muted and bypassed nodes have a mode of their own
}

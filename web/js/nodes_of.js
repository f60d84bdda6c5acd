// All nodes of a graph with their ids as the server has them, those inside subgraphs as "outer:inner".
export function* nodesOf(graph, before = "") {
  for (const node of graph?._nodes ?? []) {
    yield [`${before}${node.id}`, node];
    if (node.subgraph) yield* nodesOf(node.subgraph, `${before}${node.id}:`);
  }
}

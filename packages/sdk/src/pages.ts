type Page<Item> = {
  edges: readonly { node: Item }[];
  pageInfo: { hasNextPage: boolean; endCursor: string | null };
};

/** Every item of a connection, asking for the next page only when the reader gets there. */
export async function* itemsOf<Item>(
  page: (at: { first: number; after: string | null }) => Promise<Page<Item>>,
  first = 50,
): AsyncGenerator<Item, void, undefined> {
  let after: string | null = null;
  for (;;) {
    const { edges, pageInfo }: Page<Item> = await page({ first, after });
    for (const { node } of edges) yield node;
    if (!pageInfo.hasNextPage || pageInfo.endCursor === null) return;
    after = pageInfo.endCursor;
  }
}

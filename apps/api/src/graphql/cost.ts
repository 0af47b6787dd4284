import {
  type FieldNode,
  type FragmentDefinitionNode,
  GraphQLError,
  type GraphQLField,
  type GraphQLNamedType,
  getNamedType,
  isInterfaceType,
  isListType,
  isNonNullType,
  isObjectType,
  Kind,
  type SelectionSetNode,
  type ValidationContext,
  type ValidationRule,
} from "graphql";

/**
 * Refuses an operation that could make the server read or write out too much: each object costs 1, times the lengths of the lists
 * around it. A connection's length is its `first` or `last` (a variable counts as the most it may be), another list counts as 10.
 */
export function maxCost({
  limit,
  pageSize,
  maxPageSize,
}: {
  limit: number;
  pageSize: number;
  maxPageSize: number;
}): ValidationRule {
  return (context: ValidationContext) => {
    const fragments = new Map<string, FragmentDefinitionNode>();
    for (const definition of context.getDocument().definitions) {
      if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition);
    }
    const schema = context.getSchema();

    const costOf = (
      set: SelectionSetNode,
      parent: GraphQLNamedType | undefined,
      times: number,
      seen: readonly string[],
    ): number => {
      let cost = 0;
      for (const selection of set.selections) {
        if (cost > limit) return cost;
        if (selection.kind === Kind.FRAGMENT_SPREAD) {
          const name = selection.name.value;
          const fragment = fragments.get(name);
          // A cycle is another rule's to report.
          if (fragment === undefined || seen.includes(name)) continue;
          cost += costOf(
            fragment.selectionSet,
            schema.getType(fragment.typeCondition.name.value) ?? parent,
            times,
            [...seen, name],
          );
          continue;
        }
        if (selection.kind === Kind.INLINE_FRAGMENT) {
          const on = selection.typeCondition?.name.value;
          cost += costOf(selection.selectionSet, on === undefined ? parent : schema.getType(on), times, seen);
          continue;
        }
        // Introspection reads what is in memory, and its depth is limited already.
        if (selection.selectionSet === undefined || selection.name.value.startsWith("__")) continue;
        const field =
          isObjectType(parent) || isInterfaceType(parent)
            ? parent.getFields()[selection.name.value]
            : undefined;
        if (field === undefined) continue;
        const inside = times * lengthOf(selection, field);
        cost += inside + costOf(selection.selectionSet, getNamedType(field.type), inside, seen);
      }
      return cost;
    };

    const lengthOf = (node: FieldNode, field: GraphQLField<unknown, unknown>): number => {
      if (field.args.some((arg) => arg.name === "first")) {
        const given = node.arguments?.find(
          ({ name }) => name.value === "first" || name.value === "last",
        )?.value;
        if (given === undefined || given.kind === Kind.NULL) return pageSize;
        return given.kind === Kind.INT
          ? Math.min(Math.max(Number(given.value), 1), maxPageSize)
          : maxPageSize / 2;
      }
      const type = isNonNullType(field.type) ? field.type.ofType : field.type;
      // Connections multiply once, at the field with `first`, not again at `edges`.
      if (node.name.value === "edges" || node.name.value === "nodes") return 1;
      return isListType(type) ? 10 : 1;
    };

    return {
      OperationDefinition(operation) {
        const root = schema.getRootType(operation.operation) ?? undefined;
        const cost = costOf(operation.selectionSet, root, 1, []);
        if (cost <= limit) return;
        context.reportError(
          new GraphQLError(
            `The operation may read more than ${limit} objects. Ask for fewer rows (first) or fewer lists within lists, and page through the rest.`,
            { nodes: operation, extensions: { code: "QUERY_REFUSED" } },
          ),
        );
      },
    };
  };
}

import {
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  GraphQLError,
  type GraphQLField,
  type GraphQLNamedType,
  getNamedType,
  getOperationAST,
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
 * A field whose resolver does more than read its object says so with the extension `cost`.
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

    // What a fragment costs does not depend on where it is spread, so each is walked once however often it is named.
    const known = new Map<string, number>();
    const costOfFragment = (name: string, parent: GraphQLNamedType | undefined): number => {
      const fragment = fragments.get(name);
      if (fragment === undefined) return 0;
      const on = schema.getType(fragment.typeCondition.name.value) ?? parent;
      const key = `${name} ${on?.name ?? ""}`;
      const before = known.get(key);
      if (before !== undefined) return before;
      // A cycle costs nothing here: it is another rule's to report.
      known.set(key, 0);
      const cost = costOf(fragment.selectionSet, on);
      known.set(key, cost);
      return cost;
    };

    const costOf = (set: SelectionSetNode, parent: GraphQLNamedType | undefined): number => {
      let cost = 0;
      for (const selection of set.selections) {
        if (cost > limit) return cost;
        if (selection.kind === Kind.FRAGMENT_SPREAD) {
          cost += 1 + costOfFragment(selection.name.value, parent);
          continue;
        }
        if (selection.kind === Kind.INLINE_FRAGMENT) {
          const on = selection.typeCondition?.name.value;
          cost += costOf(selection.selectionSet, on === undefined ? parent : schema.getType(on));
          continue;
        }
        // Introspection reads what is in memory, and its depth is limited already.
        if (selection.name.value.startsWith("__")) continue;
        const field =
          isObjectType(parent) || isInterfaceType(parent)
            ? parent.getFields()[selection.name.value]
            : undefined;
        if (field === undefined) continue;
        const own = field.extensions.cost;
        if (typeof own === "number") cost += own;
        if (selection.selectionSet === undefined) continue;
        const length = lengthOf(selection, field);
        cost += length * (1 + costOf(selection.selectionSet, getNamedType(field.type)));
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
          : maxPageSize;
      }
      const type = isNonNullType(field.type) ? field.type.ofType : field.type;
      // Connections multiply once, at the field with `first`, not again at `edges`.
      if (node.name.value === "edges" || node.name.value === "nodes") return 1;
      return isListType(type) ? 10 : 1;
    };

    return {
      OperationDefinition(operation) {
        const root = schema.getRootType(operation.operation) ?? undefined;
        const cost = costOf(operation.selectionSet, root);
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

/** How many fields of the root an operation asks for, aliases and fragments included: each is a call of its own. */
export function rootFields(document: DocumentNode, operationName: string | null | undefined): number {
  const fragments = new Map<string, SelectionSetNode>();
  for (const definition of document.definitions) {
    if (definition.kind === Kind.FRAGMENT_DEFINITION)
      fragments.set(definition.name.value, definition.selectionSet);
  }
  const known = new Map<string, number>();
  const count = ({ selections }: SelectionSetNode): number => {
    let fields = 0;
    for (const selection of selections) {
      if (selection.kind === Kind.FIELD) fields++;
      else if (selection.kind === Kind.INLINE_FRAGMENT) fields += count(selection.selectionSet);
      else {
        const name = selection.name.value;
        const set = fragments.get(name);
        if (!known.has(name) && set !== undefined) {
          known.set(name, 0);
          known.set(name, count(set));
        }
        fields += known.get(name) ?? 0;
      }
    }
    return fields;
  };
  const operation = getOperationAST(document, operationName);
  return operation == null ? 0 : count(operation.selectionSet);
}

-- A day of silence releases a node's stake, and its standing says so.
ALTER TYPE "OutcomeKind" ADD VALUE 'RELEASED';

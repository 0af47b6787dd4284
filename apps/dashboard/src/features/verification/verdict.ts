import { graphql } from "../../graphql/graphql.ts";

/** One measurement of a group and what it led to, check by check: as the pages of a rollout and of a case show it. */
export const VerdictFragment = graphql(`
  fragment Verdict_verification on Verification {
    id
    verdict
    tokens
    cost
    createdAt
    validator {
      id
      name
    }
    checks {
      id
      title
      verdict
      observed
      expected
      threshold
      note
      plain
      does
      cannotCatch
    }
  }
`);

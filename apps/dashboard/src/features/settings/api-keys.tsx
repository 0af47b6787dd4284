"use client";

import { useState } from "react";
import { useMutation } from "urql";
import { type FragmentOf, graphql, readFragment } from "../../graphql/graphql.ts";
import { Button } from "../../ui/button.tsx";
import { Confirm, preparesConfirm } from "../../ui/confirm.tsx";
import { Section } from "../../ui/section.tsx";
import { Cell, Head, Row, Table } from "../../ui/table.tsx";
import { Age, Day } from "../../ui/time.tsx";
import { NewApiKey } from "./new-api-key.tsx";

export const ApiKeysFragment = graphql(`
  fragment ApiKeys_organization on Organization {
    id
    name
    apiKeys {
      id
      name
      start
      scopes
      createdAt
      expiresAt
    }
  }
`);

const RevokeApiKey = graphql(`
  mutation RevokeApiKey($input: RevokeApiKeyInput!) {
    revokeApiKey(input: $input)
  }
`);

/** An organization's keys for programs: which there are, a new one, and the end of one. */
export function ApiKeys(props: {
  organization: FragmentOf<typeof ApiKeysFragment>;
  /** Only owners make, see and end keys. */
  owner: boolean;
  /** Every right a key can carry. */
  scopes: readonly string[];
  reload(): void;
}) {
  const { owner, scopes, reload } = props;
  const organization = readFragment(ApiKeysFragment, props.organization);
  const [asked, setAsked] = useState<{ id: string; name: string }>();
  const [open, setOpen] = useState(false);
  const [{ fetching, error }, revoke] = useMutation(RevokeApiKey);

  async function end(): Promise<void> {
    if (asked === undefined) return;
    const { data } = await revoke({ input: { organization: organization.id, id: asked.id } });
    if (data === undefined) return;
    setOpen(false);
    reload();
  }

  return (
    <Section
      title={`API keys of ${organization.name}`}
      note="For programs: the command line, examples/, your own. A key acts for the organization, within its rights."
    >
      {owner ? (
        <>
          {organization.apiKeys.length > 0 ? (
            <Table
              label={`API keys of ${organization.name}`}
              head={
                <>
                  <Head>Name</Head>
                  <Head>Begins with</Head>
                  <Head>Rights</Head>
                  <Head>Made</Head>
                  <Head>Expires</Head>
                  <Head>
                    <span className="sr-only">Revoke</span>
                  </Head>
                </>
              }
            >
              {organization.apiKeys.map(({ id, name, start, scopes, createdAt, expiresAt }) => (
                <Row key={id}>
                  <Cell className="max-w-48 truncate font-medium">
                    {name}
                    {name === "operator" ? (
                      <span className="ml-1 font-normal text-subtle">replaced at every start</span>
                    ) : null}
                  </Cell>
                  <Cell className="whitespace-nowrap font-mono text-muted">{start ?? ""}…</Cell>
                  <Cell className="text-muted">{scopes.join(", ")}</Cell>
                  <Cell className="whitespace-nowrap text-muted">
                    <Age at={createdAt} />
                  </Cell>
                  <Cell className="whitespace-nowrap text-muted">
                    {expiresAt === null ? "never" : <Day at={expiresAt} />}
                  </Cell>
                  <Cell className="text-right">
                    <Button
                      tone="danger"
                      {...preparesConfirm}
                      aria-label={`Revoke ${name}`}
                      onClick={() => {
                        setAsked({ id, name });
                        setOpen(true);
                      }}
                    >
                      Revoke
                    </Button>
                  </Cell>
                </Row>
              ))}
            </Table>
          ) : (
            <p className="text-muted">There is none yet.</p>
          )}
          <NewApiKey organization={organization.id} scopes={scopes} made={reload} />
          {asked === undefined ? null : (
            <Confirm
              open={open}
              onOpenChange={setOpen}
              title={`Revoke ${asked.name}?`}
              description="Programs that use it are refused within ten seconds. A key that was revoked does not come back."
              button="Revoke key"
              danger
              busy={fetching}
              error={error}
              onConfirm={end}
            />
          )}
        </>
      ) : (
        <p className="text-muted">Only owners of {organization.name} make and see its keys.</p>
      )}
    </Section>
  );
}

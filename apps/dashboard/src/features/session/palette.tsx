"use client";

import { Dialog } from "@base-ui/react/dialog";
import { Command } from "cmdk";
import { useRouter } from "next/navigation";
import { type ReactNode, useEffect, useState } from "react";
import { useClient, useQuery } from "urql";
import { graphql } from "../../graphql/graphql.ts";
import { shortId } from "../../ui/format.ts";
import { keyCaps } from "../../ui/shortcut-keys.ts";
import type { Shortcut } from "../../ui/shortcuts.tsx";
import { plainLine } from "../../ui/untrusted.ts";
import { placeOf, readId } from "./id-place.ts";
import { nav } from "./nav.ts";

const PaletteQuery = graphql(`
  query Palette {
    runs(first: 50) {
      edges {
        node {
          id
          name
          slug
          state
        }
      }
    }
  }
`);

const PaletteNodeQuery = graphql(`
  query PaletteNode($id: ID!) {
    node(id: $id) {
      __typename
      id
    }
  }
`);

/** Search and actions in one list: pages, the newest runs, anything by its id, and what this page can do. */
export function Palette({ actions, onClose }: { actions: readonly Shortcut[]; onClose: () => void }) {
  const router = useRouter();
  const [text, setText] = useState("");
  const [{ data, fetching }] = useQuery({ query: PaletteQuery, requestPolicy: "cache-and-network" });
  const found = useNodeById(text);
  const runs = data?.runs.edges.map((edge) => edge.node) ?? [];
  const apple = /Mac|iPhone|iPad/.test(navigator.userAgent);
  function go(href: string): void {
    onClose();
    router.push(href);
  }
  return (
    <Dialog.Root open onOpenChange={(open) => (open ? undefined : onClose())}>
      <Dialog.Portal>
        <Dialog.Backdrop className="overlay-backdrop" />
        <Dialog.Popup className="overlay-panel top-[12vh] w-[600px]">
          <Dialog.Title className="sr-only">Search and go to</Dialog.Title>
          <Command label="Search and go to" loop>
            <Command.Input
              autoFocus
              value={text}
              onValueChange={setText}
              placeholder="A run, an id, a page or an action"
              className="h-11 w-full border-b border-line bg-transparent px-4 text-strong outline-none placeholder:text-subtle"
            />
            <Command.List className="max-h-[52vh] overflow-y-auto p-1" aria-label="Results">
              <Command.Empty className="px-3 py-6 text-muted">
                {fetching || found.kind === "asking"
                  ? "Searching …"
                  : "Nothing is called or numbered like this."}
              </Command.Empty>
              {found.kind === "found" ? (
                <Group heading="By its id">
                  <Item value={found.id} onSelect={() => go(found.href)} note={shortId(found.id)}>
                    Open {found.word}
                  </Item>
                </Group>
              ) : null}
              <Group heading="Runs">
                {runs.map((run) => (
                  <Item
                    key={run.id}
                    value={`${run.name} ${run.slug} ${run.id}`}
                    onSelect={() => go(`/runs/${run.id}`)}
                    note={`${run.state.toLowerCase()} ${shortId(run.id)}`}
                  >
                    {plainLine(run.name)}
                  </Item>
                ))}
              </Group>
              <Group heading="Go to">
                {nav.map(({ href, label, icon: Icon, key }) => (
                  <Item
                    key={href}
                    value={`go to ${label}`}
                    onSelect={() => go(href)}
                    note={key ? <Keys caps={keyCaps(`g ${key}`, apple)} /> : null}
                  >
                    <Icon size={14} aria-hidden className="text-subtle" /> {label}
                  </Item>
                ))}
              </Group>
              <Group heading="Actions">
                {actions.map(({ keys, label, run }) => (
                  <Item
                    key={keys + label}
                    value={`action ${label}`}
                    onSelect={() => {
                      onClose();
                      // after the dialog has given the focus back
                      setTimeout(run, 0);
                    }}
                    note={<Keys caps={keyCaps(keys, apple)} />}
                  >
                    {label}
                  </Item>
                ))}
              </Group>
            </Command.List>
          </Command>
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

type Found =
  | { kind: "none" }
  | { kind: "asking" }
  | { kind: "found"; id: string; href: string; word: string };

/** What a typed whole id is, as the coordinator says. */
function useNodeById(text: string): Found {
  const client = useClient();
  const id = readId(text);
  const [found, setFound] = useState<Found>({ kind: "none" });
  useEffect(() => {
    if (id === undefined) return setFound({ kind: "none" });
    let over = false;
    setFound({ kind: "asking" });
    const timer = setTimeout(async () => {
      const { data } = await client.query(PaletteNodeQuery, { id }).toPromise();
      if (over) return;
      const place = data?.node ? placeOf(data.node.__typename, id, location.pathname) : undefined;
      setFound(place ? { kind: "found", id, ...place } : { kind: "none" });
    }, 150);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [client, id]);
  return found;
}

function Group({ heading, children }: { heading: string; children: ReactNode }) {
  return (
    <Command.Group heading={heading} className="palette-group">
      {children}
    </Command.Group>
  );
}

function Item(props: { value: string; onSelect(): void; note?: ReactNode; children: ReactNode }) {
  return (
    <Command.Item
      value={props.value}
      onSelect={props.onSelect}
      className="flex h-8 cursor-pointer items-center gap-2 rounded-control px-2 data-[selected=true]:bg-raised"
    >
      <span className="flex min-w-0 items-center gap-2 truncate">{props.children}</span>
      <span className="ml-auto shrink-0 text-table text-subtle">{props.note}</span>
    </Command.Item>
  );
}

function Keys({ caps }: { caps: readonly string[] }) {
  return (
    <span className="flex gap-1">
      {caps.map((cap, i) => (
        // two keys of one shortcut may be the same
        <kbd key={i} className="keycap">
          {cap}
        </kbd>
      ))}
    </span>
  );
}

// Which options may stand in which section, under which names. The sets are those of drbdadm 8.4 and 9 together.

import type { OptionSpec, OptionTable } from './option-spec.ts'
import {
  COPRIME,
  DISK,
  DISK_ALIASES,
  GLOBAL,
  HANDLER_ALIASES,
  HANDLERS,
  NBD,
  NET,
  OBSOLETE,
  OBSOLETE_DISK,
  OPTIONS,
  PEER_DEVICE_OPTIONS,
  PROXY,
  STARTUP,
} from './schema.ts'
import type { OptionTarget } from './tree.ts'

export type SectionKind =
  | 'global'
  | 'startup'
  | 'options'
  | 'host-options'
  | 'net'
  | 'disk'
  | 'peer-device'
  | 'handlers'
  | 'proxy'
  | 'syncer'
  | 'coprime'
  | 'nbd'

export interface FoundOption {
  readonly target: OptionTarget
  readonly key: string
  readonly spec: OptionSpec
  /** `no-NAME`: the boolean NAME, and no. */
  readonly negated: boolean
}

type Entries = Map<string, FoundOption>

const entriesOf = (
  target: OptionTarget,
  table: OptionTable,
  keep: (spec: OptionSpec) => boolean = () => true,
): [string, FoundOption][] =>
  Object.entries(table)
    .filter(([, spec]) => keep(spec))
    .map(([key, spec]) => [spec.name, { target, key, spec, negated: false }])

function withAliases(entries: Entries, aliases: ReadonlyMap<string, string>): Entries {
  for (const [old, name] of aliases) {
    const found = entries.get(name)
    if (found !== undefined) entries.set(old, found)
  }
  return entries
}

const OBSOLETES = entriesOf('obsolete', OBSOLETE)
const known = (spec: OptionSpec): boolean => spec.scope !== 'drbd-8.4'
/** Options of the controller that 8.4 takes in `syncer`; `resync-rate` is called `rate` there. */
const SYNCER_DISK: ReadonlySet<string> = new Set([
  'c-plan-ahead',
  'c-delay-target',
  'c-fill-target',
  'c-max-rate',
  'c-min-rate',
])

const SECTIONS: Readonly<Record<SectionKind, Entries>> = {
  global: new Map(entriesOf('global', GLOBAL)),
  startup: new Map([...entriesOf('startup', STARTUP), ...OBSOLETES]),
  options: new Map([...entriesOf('options', OPTIONS), ...entriesOf('coprime', COPRIME), ...OBSOLETES]),
  'host-options': new Map([...entriesOf('options', OPTIONS), ...OBSOLETES]),
  net: new Map([...entriesOf('net', NET), ...entriesOf('coprime', COPRIME), ...OBSOLETES]),
  disk: withAliases(
    new Map([...entriesOf('disk', DISK), ...OBSOLETES, ...entriesOf('obsolete', OBSOLETE_DISK)]),
    DISK_ALIASES,
  ),
  'peer-device': new Map(entriesOf('disk', DISK, (spec) => PEER_DEVICE_OPTIONS.has(spec.name))),
  handlers: withAliases(new Map([...entriesOf('handlers', HANDLERS), ...OBSOLETES]), HANDLER_ALIASES),
  proxy: new Map(entriesOf('proxy', PROXY)),
  syncer: syncerEntries(),
  coprime: new Map(entriesOf('coprime', COPRIME)),
  nbd: new Map(entriesOf('nbd', NBD)),
}

/** 8.4 takes the options that once lived there, 9 also what it knows of net, disk and options. */
function syncerEntries(): Entries {
  const entries: Entries = new Map([
    ...entriesOf('net', NET, known),
    ...entriesOf('options', OPTIONS),
    ...entriesOf(
      'disk',
      DISK,
      (spec) => known(spec) && (!PEER_DEVICE_OPTIONS.has(spec.name) || SYNCER_DISK.has(spec.name)),
    ),
  ])
  const rate = entriesOf('disk', DISK, (spec) => spec.name === 'resync-rate')[0]
  const after = entries.get('resync-after')
  if (rate !== undefined) entries.set('rate', rate[1])
  if (after !== undefined) entries.set('after', after)
  return entries
}

export function findOption(section: SectionKind, name: string): FoundOption | undefined {
  const entries = SECTIONS[section]
  const found = entries.get(name)
  if (found !== undefined) return found
  if (name.startsWith('no-')) {
    const positive = entries.get(name.slice(3))
    const negatable = positive?.spec.kind === 'boolean' && positive.spec.scope !== 'coprime'
    if (positive !== undefined && negatable && positive.target !== 'obsolete') return { ...positive, negated: true }
  }
  // DRBD 9's RDMA transport has more of them than are worth a line each.
  if (section === 'net' && name.startsWith('rdma-')) {
    return { target: 'obsolete', key: name, spec: { ...NET.transport, name }, negated: false }
  }
  return undefined
}

export const optionNames = (section: SectionKind): Iterable<string> => SECTIONS[section].keys()

/** The section in which an option that was written elsewhere belongs. */
export function homeOf(name: string): SectionKind | undefined {
  const homes: readonly SectionKind[] = ['net', 'disk', 'options', 'startup', 'handlers', 'global', 'nbd', 'proxy']
  return homes.find((section) => SECTIONS[section].has(name))
}

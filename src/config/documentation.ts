// docs/configuration.md, from the schema: `scripts/generate-configuration-doc.ts` writes what this returns, and a test
// compares the two.

import { GIB, KIB, MIB } from '../base/units.ts'
import type { OptionSpec, OptionTable, Scope, Unit } from './option-spec.ts'
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
  PROXY,
  STARTUP,
} from './schema.ts'

export function configurationDocument(): string {
  return `${[
    INTRODUCTION,
    OWN_OPTIONS,
    table(COPRIME),
    '### nbd\n\nThe exports of the resource on this host.',
    NBD_LISTEN,
    table(NBD),
    section('global', 'Once, in front of the resources.', GLOBAL),
    section('net', 'The link between the hosts. In `resource`, `common`, and DRBD 9 `connection` sections.', NET),
    section('disk', 'The local disk and resync. In `resource`, `common`, host sections and `volume`.', DISK),
    section('options', 'The resource as a whole. In `resource` and `common`.', OPTIONS),
    section('handlers', 'Commands for events, run by `/bin/sh -c`. In `resource` and `common`.', HANDLERS),
    section('startup', 'Start of the system. In `resource` and `common`.', STARTUP),
    section('proxy', 'Also `plugin { }`, and `proxy on HOST { }` in host sections.', PROXY),
    legacy(),
  ].join('\n\n')}\n`
}

const INTRODUCTION = `# Configuration

<!-- Written by scripts/generate-configuration-doc.ts from src/config/schema.ts: change it there. -->

The language is that of drbd.conf: a file that \`drbdadm\` of DRBD 8.4 or 9 accepts is accepted unchanged, and means the
same. An option that has no effect here is read and range-checked; it gives one warning for each file. An unknown option,
or a value out of range, is an error with file, line, column and the nearest valid word. Validity is checked when files are
read; a resource that is correct for DRBD and cannot be run here (stacked, more than two hosts, without a disk) is
refused when it is used.

\`\`\`
global { usage-count no; }
common { net { protocol C; verify-alg sha1; } }
resource r0 {
    net { allow-two-primaries yes; }
    device /dev/drbd1;   disk /dev/vg/r0;   meta-disk internal;
    on alice { address 10.0.0.1:7789; }
    on bob   { address 10.0.0.2:7789; }
}
\`\`\`

\`device\` only names the volume and its minor number; no kernel device is made. \`meta-disk\` is \`internal\` (also if it is
missing), a device as a whole, or a device with an index of 128 MiB slots. \`include "FILE-OR-PATTERN";\` is relative to the
file that it stands in. Each host finds its own section by its name (\`uname -n\`; letter case and domain may differ), or, for
\`floating\`, by its address.

**Which value counts.** An option is taken from the innermost place that has it: for \`net\`, \`options\`, \`startup\` and
\`handlers\` the resource (a DRBD 9 \`connection\` goes before it), then \`common\`; for \`disk\` the host's \`volume\`, the
resource, \`common\`, then a \`volume\` at resource level. An option given twice in one section: the last one counts in \`net\`,
\`options\`, \`startup\` and within a host, the first one in \`handlers\`, \`common\` and the resource's \`disk\`; a warning says so.

**Numbers** take the suffixes K, M, G (powers of 1024) and s (512-byte sectors). Without one the unit of the table counts;
a value is rounded up to it. **Booleans**: the bare name means yes; else \`yes\` or \`no\`; \`no-NAME\` means no.

Columns: *range* in the unit of the table; *acts* says whether the option has an effect here, and if not, why; *since* is
who else knows it.`

const OWN_OPTIONS = `## Options of coprime

DRBD does not know these. Where drbdadm reads the same file, they stand in a block that it passes over:

\`\`\`
skip coprime {
    common { in-flight-max 128M; }
    r0 {
        global-write-order coordinator;
        coordinator alice;
        nbd { listen unix /run/coprime/r0.sock; listen tcp 127.0.0.1:10809; }
    }
}
\`\`\`

Elsewhere they may as well stand in \`net { }\` or \`options { }\` of a resource or of \`common\`. First the resource's part of the
skip block counts, then the resource itself, then \`common\` of the skip block, then \`common\`. \`coprime dump\` always prints
them as a skip block. How writes are ordered must be the same on both hosts.`

const NBD_LISTEN = `\`listen unix PATH;\` and \`listen tcp ADDRESS:PORT;\` (IPv6 in brackets) may stand several times.`

const HEADER = '| Option | Value | Default | Meaning | Acts | Since |\n|---|---|---|---|---|---|'

const section = (name: string, where: string, options: OptionTable): string =>
  `## ${name}\n\n${where}\n\n${table(options)}`

function table(options: OptionTable): string {
  return [HEADER, ...Object.values(options).map(row)].join('\n')
}

function row(spec: OptionSpec): string {
  const acts = spec.ignored === undefined ? 'yes' : `no: ${spec.ignored}`
  const cells = [`\`${spec.name}\``, valueCell(spec), defaultCell(spec), spec.meaning, acts, SINCE[spec.scope]]
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`
}

const SINCE: Readonly<Record<Scope, string>> = {
  both: 'DRBD',
  'drbd-8.4': '8.4 only',
  'drbd-9': '9',
  coprime: 'coprime',
}

function valueCell(spec: OptionSpec): string {
  switch (spec.kind) {
    case 'number': {
      const unit = spec.unit === '' ? '' : ` (${spec.unit})`
      const words = spec.words.map((word) => `${word}, `).join('')
      const [min, max] = [quantity(spec.min, spec.unit), quantity(spec.max, spec.unit)]
      const range = spec.max === Number.MAX_SAFE_INTEGER ? `from ${min}` : `${min}..${max}`
      return `${words}${range}${unit}${spec.powerOfTwo ? ', power of two' : ''}`
    }
    case 'boolean':
      return 'yes, no'
    case 'flag':
      return 'no value'
    case 'choice':
      return spec.words.join(', ')
    case 'text':
      return `text of at most ${spec.lengthMax} bytes`
    case 'names':
      return 'words'
  }
}

function defaultCell(spec: OptionSpec): string {
  if (spec.kind === 'boolean') return spec.default ? 'yes' : 'no'
  if (spec.kind === 'flag') return 'off'
  if (spec.kind === 'names') return 'none'
  if (spec.name === 'export-name') return 'RESOURCE, or RESOURCE/VNR'
  if (spec.kind === 'number' && typeof spec.default === 'number') return quantity(spec.default, spec.unit)
  return spec.default === '' ? '""' : String(spec.default)
}

/** Bytes as a file would give them. */
function quantity(value: number, unit: Unit): string {
  if (unit !== 'bytes' || value === 0 || !Number.isInteger(value / KIB)) return String(value)
  const [factor, suffix] = value % GIB === 0 ? [GIB, 'G'] : value % MIB === 0 ? [MIB, 'M'] : [KIB, 'K']
  return `${value / factor}${suffix}`
}

function legacy(): string {
  const aliases = [...DISK_ALIASES, ...HANDLER_ALIASES].map(([old, now]) => `| \`${old}\` | \`${now}\` |`)
  const obsolete = [...Object.values(OBSOLETE), ...Object.values(OBSOLETE_DISK)].map(({ name }) => `\`${name}\``)
  return `## Spellings of the past

| Old | Now |
|---|---|
${aliases.join('\n')}
| \`syncer { }\` with \`rate\`, \`after\`, \`al-extents\`, \`c-*\` | \`disk { }\` with \`resync-rate\`, \`resync-after\`, \`al-extents\`, \`c-*\` |
| \`syncer { }\` with \`verify-alg\`, \`csums-alg\`, \`use-rle\` | \`net { }\` |
| \`syncer { }\` with \`cpu-mask\`, \`on-no-data-accessible\` | \`options { }\` |
| \`protocol C;\` in \`resource\` or \`common\` | \`net { protocol C; }\` |
| \`no-disk-flushes;\` and the like | \`disk-flushes no;\` |
| \`flexible-meta-disk PATH;\` | \`meta-disk PATH;\` |

Read and forgotten: ${obsolete.join(', ')}.`
}

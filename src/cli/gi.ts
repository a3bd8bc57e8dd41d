// `coprime get-gi OBJECT` and `show-gi OBJECT`: generation identifiers and flags from the metadata on disk
// (config-and-tools.md 3.7); they are those of the daemon's memory whenever it has answered a write.

import { configuredVolumes } from './configured-volumes.ts'
import { type Context, EXIT_OK, nodeName } from './context.ts'

const GENERATIONS = [
  'Current data generation UUID',
  "Bitmap's base data generation UUID",
  'younger history UUID',
  'older history',
]
const FLAGS = [
  'Data consistency flag',
  'Data was/is currently up-to-date',
  'Node was/is currently primary',
  'Node was/is currently connected',
  'Node was in the progress of setting all bits in the bitmap',
  "The peer's disk was out-dated or inconsistent",
  'This node was a crashed primary, and has not seen its peer since',
]
const UUID_WIDTH = 17
const ARROW_COLUMN = 7

export async function runGi(context: Context, objects: readonly string[], drawn: boolean): Promise<number> {
  const { readMetadata } = await import('../daemon/offline-metadata.ts')
  const { getGi } = await import('../meta/dump.ts')
  const { diskStateFromFlags, isClean } = await import('../meta/superblock.ts')
  const volumes = await configuredVolumes(context.options, nodeName(context.options), objects)
  const found = volumes.map(({ object, volume }) => {
    const { superblock } = readMetadata(volume)
    return { object, gi: getGi(superblock), disk: diskStateFromFlags(superblock.flags), clean: isClean(superblock) }
  })
  if (context.json) context.print(JSON.stringify(found))
  else {
    for (const { gi, disk, clean } of found) {
      context.print(
        drawn
          ? `${drawing(gi)}\n\nflags: Secondary, StandAlone, ${disk}\nmeta-data: ${clean ? 'clean' : 'need apply-al'}\n`
          : gi,
      )
    }
  }
  return EXIT_OK
}

/** The line with an arrow from each name to its place. */
export function drawing(gi: string): string {
  const columns = GENERATIONS.map((_, i) => ARROW_COLUMN + i * UUID_WIDTH)
  const bars = (count: number): string => {
    let line = ''
    for (const column of columns.slice(0, count)) line = `${line.padEnd(column)}|`
    return line
  }
  const above = GENERATIONS.map((name, i) => `${bars(i).padEnd(columns[i] ?? 0)}+--<  ${name}  >-`)
  const heads = columns.reduce((line, column) => `${line.padEnd(column)}V`, '')
  const flagsAt = gi.length - 2 * FLAGS.length + 1
  const carets = FLAGS.reduce((line, _, i) => `${line.padEnd(flagsAt + 2 * i)}^`, '')
  const below = FLAGS.map((name, i) => {
    const rest = FLAGS.slice(i + 1)
      .map(() => ' |')
      .join('')
    return `${`-<  ${name}  >-`.padStart(flagsAt + 2 * i - 1)}-+${rest}`
  })
  return [...above, bars(GENERATIONS.length), heads, gi, carets, ...below].join('\n')
}

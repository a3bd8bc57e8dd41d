// Which of several statements about one option counts, and the typed set of options that comes of it
// (config-and-tools.md 1.5; what that page leaves open was observed from `drbdadm-84 -d up`).
//
// Levels inherit from each other option by option: the first level that has an option decides. Within one level the last
// statement counts where drbdadm hands the list on as it is, and the first one where it merges the list into another.

import type { Position } from './config-error.ts'
import type { Notes } from './notes.ts'
import type { OptionTable, OptionValue, ValueOf } from './option-spec.ts'
import type { OptionNode } from './tree.ts'

/** How and where an option was set. */
export interface Setting {
  /** The value as the file spells it. */
  readonly spelling: string
  readonly position: Position
}

/** Every option of a table with its effective value, and `explicit` with those that stand in a file. */
export type OptionsOf<T extends OptionTable> = { readonly [K in keyof T]: ValueOf<T[K]> } & {
  readonly explicit: ReadonlyMap<keyof T & string, Setting>
}

export interface Level {
  readonly options: readonly OptionNode[]
  readonly twice: 'first' | 'last'
}

export const first = (options: readonly OptionNode[]): Level => ({ options, twice: 'first' })
export const last = (options: readonly OptionNode[]): Level => ({ options, twice: 'last' })

export function choose(levels: readonly Level[]): Map<string, OptionNode> {
  const chosen = new Map<string, OptionNode>()
  for (const { options, twice } of levels) {
    const level = new Map<string, OptionNode>()
    for (const option of options) {
      if (twice === 'last' || !level.has(option.key)) level.set(option.key, option)
    }
    for (const [key, option] of level) {
      if (!chosen.has(key)) chosen.set(key, option)
    }
  }
  return chosen
}

/** A second, different value in one level: DRBD 9 refuses to work with it, 8.4 takes one of the two. */
export function warnOfTwice(level: Level, notes: Notes): void {
  const chosen = choose([level])
  for (const option of level.options) {
    const counts = chosen.get(option.key)
    if (counts === undefined || String(counts.value) === String(option.value)) continue
    const { name } = option.spec
    const where = `the one at line ${counts.position.line}, column ${counts.position.column}, counts`
    notes.warnOnce('given-twice', name, option.position, `'${name}' is given twice with different values: ${where}.`)
  }
}

/** `replaced`: effective values that are not simply the chosen ones. */
export function effectiveOptions<T extends OptionTable>(
  table: T,
  chosen: ReadonlyMap<string, OptionNode>,
  replaced: ReadonlyMap<string, OptionValue> = new Map(),
): OptionsOf<T> {
  const values: Record<string, unknown> = {}
  const explicit = new Map<string, Setting>()
  for (const [key, spec] of Object.entries(table)) {
    const option = chosen.get(key)
    values[key] = replaced.get(key) ?? option?.value ?? spec.default
    if (option !== undefined) explicit.set(key, { spelling: option.spelling, position: option.position })
  }
  values['explicit'] = explicit
  return values as OptionsOf<T> // each value comes from the spec under its key
}

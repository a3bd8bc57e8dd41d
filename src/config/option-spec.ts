// What the schema says about an option, the TypeScript type that follows from it, and short ways to write it down.

/** Whose option it is: 8.4's, 9's, both's, or our own. */
export type Scope = 'both' | 'drbd-8.4' | 'drbd-9' | 'coprime'

interface Described {
  readonly name: string
  /** One line. */
  readonly meaning: string
  readonly scope: Scope
  /** Why it has no effect here; undefined if it has. */
  readonly ignored: string | undefined
}

export type Unit = 'bytes' | 'sectors' | 'KiB/s' | 'pages' | 's' | '0.1 s' | 'ms' | ''

export interface NumberSpec<W extends string = string> extends Described {
  readonly kind: 'number'
  /** Unit of a value without suffix, and of the effective value. */
  readonly unit: Unit
  readonly min: number
  readonly max: number
  readonly default: number | W
  /** Words that may stand in place of a number. */
  readonly words: readonly W[]
  /** Out of range is not refused but brought into range. */
  readonly clamped: boolean
  readonly powerOfTwo: boolean
}

export interface BooleanSpec extends Described {
  readonly kind: 'boolean'
  readonly default: boolean
}

/** A bare word: being there is yes, and there is no value. */
export interface FlagSpec extends Described {
  readonly kind: 'flag'
  readonly default: false
}

export interface ChoiceSpec<W extends string = string> extends Described {
  readonly kind: 'choice'
  readonly words: readonly W[]
  readonly default: W
  /** A value may also be this followed by a name; `resolve.ts` translates it into one of the words. */
  readonly prefix: string | undefined
  /** `yes | no | ask` of usage-count: bare words only. */
  readonly bareOnly: boolean
}

export interface TextSpec extends Described {
  readonly kind: 'text'
  /** In bytes. */
  readonly lengthMax: number
  readonly default: string
  /** Never shown in a message. */
  readonly secret: boolean
}

export interface NamesSpec extends Described {
  readonly kind: 'names'
  readonly default: readonly string[]
}

export type OptionSpec = NumberSpec | BooleanSpec | FlagSpec | ChoiceSpec | TextSpec | NamesSpec
export type OptionTable = Readonly<Record<string, OptionSpec>>
export type OptionValue = number | boolean | string | readonly string[]

/** The type of an option's effective value. */
export type ValueOf<S> =
  S extends NumberSpec<infer W>
    ? number | W
    : S extends ChoiceSpec<infer W>
      ? W
      : S extends BooleanSpec | FlagSpec
        ? boolean
        : S extends TextSpec
          ? string
          : S extends NamesSpec
            ? readonly string[]
            : never

// ---- ways to write an entry -----------------------------------------------------------------------------------------

const described = (name: string, meaning: string): Described => ({ name, meaning, scope: 'both', ignored: undefined })

type Range = readonly [min: number, max: number, standard: number]

export const number = (name: string, unit: Unit, range: Range, meaning: string): NumberSpec<never> => {
  const [min, max, standard] = range
  const flags = { words: [], clamped: false, powerOfTwo: false }
  return { kind: 'number', ...described(name, meaning), unit, min, max, default: standard, ...flags }
}

export const numberOrWord = <const W extends string>(
  name: string,
  words: readonly W[],
  range: readonly [min: number, max: number, standard: NoInfer<W>],
  meaning: string,
): NumberSpec<W> => {
  const [min, max, standard] = range
  const flags = { words, clamped: false, powerOfTwo: false }
  return { kind: 'number', ...described(name, meaning), unit: '', min, max, default: standard, ...flags }
}

export const boolean = (name: string, standard: boolean, meaning: string): BooleanSpec => ({
  kind: 'boolean',
  ...described(name, meaning),
  default: standard,
})

export const flag = (name: string, meaning: string): FlagSpec => ({
  kind: 'flag',
  ...described(name, meaning),
  default: false,
})

export const choice = <const W extends string>(
  name: string,
  words: readonly W[],
  standard: NoInfer<W>,
  meaning: string,
): ChoiceSpec<W> => {
  const flags = { prefix: undefined, bareOnly: false }
  return { kind: 'choice', ...described(name, meaning), words, default: standard, ...flags }
}

export const text = (name: string, lengthMax: number, meaning: string): TextSpec => ({
  kind: 'text',
  ...described(name, meaning),
  lengthMax,
  default: '',
  secret: false,
})

export const names = (name: string, meaning: string): NamesSpec => ({
  kind: 'names',
  ...described(name, meaning),
  default: [],
})

export const ignored = <S extends OptionSpec>(reason: string, spec: S): S => ({ ...spec, ignored: reason })
export const only = <S extends OptionSpec>(scope: Scope, spec: S): S => ({ ...spec, scope })
export const nine = <S extends OptionSpec>(reason: string, spec: S): S => ({
  ...spec,
  scope: 'drbd-9',
  ignored: reason,
})

// A mutant: a small, realistic mistake, as a patch of the sources. Product code has no switches for it; the patch names the
// exact text that it replaces, which must stand in the file once, so a mutant that the code has outgrown is noticed.

export interface Edit {
  /** Under src/. */
  readonly file: string
  readonly find: string
  readonly replace: string
}

export interface Mutant {
  readonly name: string
  /** What the mistake is. */
  readonly what: string
  readonly edits: readonly Edit[]
  /**
   * Who has to catch it: random stories unless it says otherwise, or a named scenario, or the explorer, for what is not a
   * matter of chance.
   */
  readonly by?: { readonly scenario: string } | { readonly explore: string }
}

/** One patch of one file. */
export function mutant(name: string, what: string, file: string, find: string, replace: string): Mutant {
  return { name, what, edits: [{ file, find, replace }] }
}

/** The same, found by a scenario. */
export const foundBy = (scenario: string, found: Mutant): Mutant => ({ ...found, by: { scenario } })

/** Or by exploring a plan. */
export const foundExploring = (explore: string, found: Mutant): Mutant => ({ ...found, by: { explore } })

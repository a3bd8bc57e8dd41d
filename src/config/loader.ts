// Reads a configuration and all that it includes into one tree. Files come through a port, so that this folder never
// touches the file system.
//
// `include` is relative to the directory of the including file. A pattern is expanded in sorted order and may match nothing;
// a literal file must be there. A file that was read already (same real path) is passed over silently, so that loops end.

import { ConfigError, type Position, printable } from './config-error.ts'
import type { Notes } from './notes.ts'
import { type Inclusions, parseFile, parseTemplate } from './parser.ts'
import type { BodyNode, ConfigTree, Name } from './tree.ts'

/** The files of the machine. Everything is synchronous; whatever is thrown means that the file cannot be read. */
export interface ConfigFiles {
  /** The text of a file. */
  read(path: string): string
  /** Files that a pattern of glob(3) matches; any order. */
  glob(pattern: string): string[]
  /** One name for one file, however it was reached. */
  realPath(path: string): string
  directoryOf(path: string): string
  /** `path` as seen from `directory`; `path` itself if it is absolute. */
  join(directory: string, path: string): string
}

export const CONFIG_CHARACTERS_MAX = 8 * 1024 * 1024
export const CONFIG_FILES_MAX = 1024

export class Loader implements Inclusions {
  readonly tree: ConfigTree = { global: undefined, common: undefined, resources: [], skipped: [] }
  readonly #files: ConfigFiles
  readonly #notes: Notes
  /** Text of every file read, by the name that messages use. */
  readonly #texts = new Map<string, string>()
  readonly #realPaths = new Set<string>()
  #charactersRead = 0
  /** The file being read: `include` is relative to its directory. */
  #current = ''

  constructor(files: ConfigFiles, notes: Notes) {
    this.#files = files
    this.#notes = notes
  }

  /** Names of the files read, in the order in which they were. */
  get paths(): string[] {
    return [...this.#texts.keys()]
  }

  textOf(path: string): string | undefined {
    return this.#texts.get(path)
  }

  loadMain(path: string): void {
    const position = { file: path, line: 1, column: 1 }
    this.#load(path, position, () => `Can not open '${printable(path)}'.`, 20)
  }

  include(pattern: Name, statement: Position): void {
    const path = this.#resolve(pattern.text)
    if (!/[*?[]/.test(pattern.text)) {
      this.#load(path, statement, () => `Failed to open include file '${printable(pattern.text)}'.`)
      return
    }
    // Sorted by code unit, so that the order is the same on every machine.
    for (const found of this.#glob(path, statement).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))) {
      this.#load(found, statement, () => `Failed to open include file '${printable(found)}'.`)
    }
  }

  template(path: Name, statement: Position): { readonly path: string; readonly body: BodyNode } {
    const full = this.#resolve(path.text)
    const text = this.#read(full, statement, () => `Failed to open template file '${printable(path.text)}'.`)
    return { path: full, body: this.#inFile(full, () => parseTemplate({ path: full, text }, this.#notes, this)) }
  }

  #glob(pattern: string, position: Position): string[] {
    try {
      return [...this.#files.glob(pattern)]
    } catch (cause) {
      const problem = `Failed to expand include pattern '${printable(pattern)}'.`
      throw new ConfigError({ code: 'E_CONFIG_FILE', position, problem, hint: reasonOf(cause), cause })
    }
  }

  #load(path: string, position: Position, problem: () => string, exitCode = 10): void {
    const text = this.#read(path, position, problem, exitCode)
    const realPath = this.#realPath(path)
    if (this.#realPaths.has(realPath)) return
    this.#realPaths.add(realPath)
    const input = { source: { path, text }, notes: this.#notes, tree: this.tree, inclusions: this }
    this.#inFile(path, () => parseFile(input))
  }

  /** A file that was read and has no real path any more is a file of its own. */
  #realPath(path: string): string {
    try {
      return this.#files.realPath(path)
    } catch {
      return path
    }
  }

  #inFile<T>(path: string, parse: () => T): T {
    const outer = this.#current
    this.#current = path
    const result = parse()
    this.#current = outer
    return result
  }

  #read(path: string, position: Position, problem: () => string, exitCode = 10): string {
    const known = this.#texts.get(path)
    if (known !== undefined) return known
    let text: string
    try {
      text = this.#files.read(path)
    } catch (cause) {
      throw new ConfigError({
        code: 'E_CONFIG_FILE',
        position,
        problem: problem(),
        hint: reasonOf(cause),
        exitCode,
        cause,
      })
    }
    this.#texts.set(path, text)
    this.#charactersRead += text.length
    if (this.#charactersRead > CONFIG_CHARACTERS_MAX || this.#texts.size > CONFIG_FILES_MAX) {
      const limits = `${CONFIG_CHARACTERS_MAX} characters in ${CONFIG_FILES_MAX} files`
      const hint = 'Check that no include statement matches files that are no configuration.'
      throw new ConfigError({ code: 'E_CONFIG_LIMIT', position, problem: `The configuration exceeds ${limits}.`, hint })
    }
    return text
  }

  #resolve(path: string): string {
    return this.#files.join(this.#files.directoryOf(this.#current), path)
  }
}

const reasonOf = (cause: unknown): string =>
  cause instanceof Error ? printable(cause.message) : 'The file cannot be read.'

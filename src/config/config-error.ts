// What is wrong with a configuration, where, and what to do about it; and what is merely worth a word (warnings). Texts
// follow drbdadm's own, so that people and scripts recognise them (config-and-tools.md 1.6).

import { AppError } from '../base/errors.ts'

/** A place in a file; line and column count from 1, columns in UTF-16 code units (a tab is one). */
export interface Position {
  readonly file: string
  readonly line: number
  readonly column: number
}

export type ConfigErrorCode =
  /** The text does not follow the grammar. */
  | 'E_CONFIG_SYNTAX'
  /** An option, section or statement that does not exist at this place. */
  | 'E_CONFIG_UNKNOWN'
  /** A value of the wrong type, out of range, or not one of the words allowed. */
  | 'E_CONFIG_VALUE'
  /** Something is there twice that must be unique. */
  | 'E_CONFIG_CONFLICT'
  /** A statement that must be there is not, or names something that is not defined. */
  | 'E_CONFIG_MISSING'
  /** A file cannot be read. */
  | 'E_CONFIG_FILE'
  /** Larger than this program is prepared to read. */
  | 'E_CONFIG_LIMIT'
  /** Correct for DRBD, but nothing that this program can run. */
  | 'E_CONFIG_UNSUPPORTED'
  /** A local address that no interface of this host has. */
  | 'E_CONFIG_ADDRESS'

export interface ConfigErrorDetails {
  readonly code: ConfigErrorCode
  readonly position: Position
  /** drbdadm's wording without the leading `FILE:LINE: `. */
  readonly problem: string
  readonly hint: string
  /** drbdadm's exit code for this error (config-and-tools.md 4.1); 10 unless it says otherwise. */
  readonly exitCode?: number
  readonly cause?: unknown
}

const RENDERED_LINE_MAX = 160

export class ConfigError extends AppError {
  override readonly name = 'ConfigError'
  readonly code: ConfigErrorCode
  readonly hint: string
  readonly file: string
  readonly line: number
  readonly column: number
  readonly exitCode: number
  #rendered: string

  constructor(details: ConfigErrorDetails) {
    const { position } = details
    super(
      `${printable(position.file)}:${position.line}: ${details.problem}`,
      details.cause === undefined ? undefined : { cause: details.cause },
    )
    this.code = details.code
    this.hint = details.hint
    this.file = position.file
    this.line = position.line
    this.column = position.column
    this.exitCode = details.exitCode ?? 10
    this.#rendered = joinLines([this.message, this.hint])
  }

  /** The message, the line of the file with a caret under the place (once known), and the hint. */
  get rendered(): string {
    return this.#rendered
  }

  /** Adds the line of the file to `rendered`; called by the loader, which has the text. */
  attachText(text: string): void {
    const line = text.split('\n', this.line)[this.line - 1]
    if (line === undefined) return
    const start = Math.max(0, this.column - 1 - RENDERED_LINE_MAX / 2)
    const shown = printable(line.slice(start, start + RENDERED_LINE_MAX).replaceAll('\t', ' '))
    const before = printable(
      line.slice(start, Math.min(this.column - 1, start + RENDERED_LINE_MAX)).replaceAll('\t', ' '),
    )
    this.#rendered = joinLines([this.message, `    ${shown}`, `    ${' '.repeat(before.length)}^`, this.hint])
  }
}

export type ConfigWarningCode =
  | 'ignored-option'
  | 'ignored-section'
  | 'unclosed-section'
  | 'deprecated'
  | 'given-twice'
  | 'clamped'
  | 'order'
  | 'shared-disk'
  | 'unknown-name'

export interface ConfigWarning {
  readonly code: ConfigWarningCode
  readonly message: string
  readonly position: Position
}

export const formatWarning = (warning: ConfigWarning): string =>
  `${printable(warning.position.file)}:${warning.position.line}: ${warning.message}`

/** Text from a file as part of a message: control characters must not reach a terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/g, '?')
}

const joinLines = (lines: readonly string[]): string => lines.filter((line) => line !== '').join('\n')

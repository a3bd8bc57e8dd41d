// How a run of the simulator ends when it does not end well. Each kind has an exit code of its own, so that a script tells
// a crash of our code from a wrong answer and from a world that stands still.

export type FailureKind = 'crash' | 'wrong-result' | 'no-progress'

/** Exit codes of the `sim` command. */
export const EXIT_CODES = {
  passed: 0,
  usage: 2,
  crash: 10,
  'wrong-result': 11,
  'no-progress': 12,
  /** A scenario that must fail passed: the harness is blind. */
  blind: 13,
} as const

/** A checker found something. `checker` is its stable name. */
export class CheckFailure extends Error {
  override readonly name = 'CheckFailure'
  readonly kind: FailureKind
  readonly checker: string

  constructor(checker: string, message: string, kind: FailureKind = 'wrong-result') {
    super(message)
    this.checker = checker
    this.kind = kind
  }
}

/** Where parts of the world report what the code under test did wrong; the world turns the first report into a failure. */
export type Report = (checker: string, message: string) => void

/** An expectation of a scenario. */
export function expect(condition: boolean, message: string, checker = 'scenario'): asserts condition {
  if (!condition) throw new CheckFailure(checker, message)
}

/** What is thrown at the simulator by the code under test is a crash of that code. */
export function toCheckFailure(error: unknown): CheckFailure {
  if (error instanceof CheckFailure) return error
  if (error instanceof Error) return new CheckFailure('crash', error.stack ?? error.message, 'crash')
  return new CheckFailure('crash', String(error), 'crash')
}

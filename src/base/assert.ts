// Assertions for mistakes of our own. They stay on in production and end the process, so that the peer carries on.
// Bytes from a peer, a client, a disk, a file or a person must never reach one: those get a typed error (errors.ts).

export class AssertionFailure extends Error {
  override readonly name = 'AssertionFailure'
}

export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message)
}

/** Unwraps a value that the caller knows to be there. */
export function defined<T>(value: T | undefined | null, what: string): T {
  if (value === undefined || value === null) throw new AssertionFailure(`${what} is missing`)
  return value
}

/** A switch that must be exhaustive: an unhandled case does not compile. */
export function unreachable(value: never): never {
  throw new AssertionFailure(`unreachable: ${JSON.stringify(value)}`)
}

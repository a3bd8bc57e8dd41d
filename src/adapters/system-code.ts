// The operating system's name of an error that Node.js threw or reported.

/** `ENOSPC` and the like, of an error of node:fs, node:net and their like. */
export function systemCodeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined
  return typeof error.code === 'string' ? error.code : undefined
}

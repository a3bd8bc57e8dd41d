// Errors of the world outside: peer, client, disk, configuration, operator. `code` is stable and what callers match on;
// `hint` says what to do next.

export abstract class AppError extends Error {
  abstract readonly code: string
  abstract readonly hint: string
}

// What the contract suites need of the world in which an implementation lives: the operating system, or a simulator.

export interface ContractWorld {
  /** Lets time pass until `until` is true; rejects, or throws, if that does not come within a bound of its own. */
  run(until: () => boolean, what: string): Promise<void> | void
  /** Lets time pass for a while in which nothing is expected to happen. */
  idle(): Promise<void> | void
  /** Ends this world, and says what it found wrong on its own. */
  dispose(): Promise<void> | void
}

/** The operating system: real time. */
export function systemWorld(dispose: () => Promise<void> | void = () => {}): ContractWorld {
  return {
    run: async (until, what) => {
      const deadlineMs = performance.now() + 10_000
      while (!until()) {
        if (performance.now() > deadlineMs) throw new Error(`did not happen within 10 s: ${what}`)
        await new Promise((resolve) => setImmediate(resolve))
      }
    },
    idle: () => new Promise((resolve) => setTimeout(resolve, 30)),
    dispose,
  }
}

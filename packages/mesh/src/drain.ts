/** Performs all effects that a child machine owes; true when there were any. */
export function drain<Output>(child: { pollOutput(): Output | undefined } | undefined, perform: (output: Output) => void): boolean {
  let output = child?.pollOutput()
  if (output === undefined) return false
  for (; output !== undefined; output = child?.pollOutput()) perform(output)
  return true
}

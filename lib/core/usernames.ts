/** What is wrong with a username; null when nothing is. */
export function usernameProblem(text: string): string | null {
  return text.length <= 256 && usernameShape.test(text.normalize('NFC')) ? null : badUsername
}

/** What a username must be like. */
export const badUsername = 'must have 1 to 64 characters, none of them a control character, and no space at either end'

const usernameShape = /^(?!\s)[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]{1,64}(?<!\s)$/u

/** The form in which a username is unique. */
export function canonicalUsername(username: string): string {
  return username.normalize('NFC').toLowerCase().normalize('NFC')
}

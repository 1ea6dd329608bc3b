/** The version of these programs. The first part is the release of the client whose protocol they speak. */
export const VERSION = '1.102.5-meshwright-0.1.0'
/** What `version` prints on its first line. */
export const SHORT_VERSION = '0.1.0'

// Package manifest reads and edits the text of one manifest file: YAML or JSON in, typed and
// validated objects out, or errors that name file, line, object, field, value and mend.
//
// It is pure: bytes in, values out. It opens no file and knows nothing of other files; whether a
// file is in force is decided in package endpoints.
//
// A caller may rely on three things. Whatever the bytes, [Parse] and [Edit] return, in time
// linear in the input, without panic. Objects returned without error have had defaults filled in and
// are valid. Text returned by [Edit] differs from the text given in the values that were to be changed, or added, only.
//
// When a file is refused for no visible reason, run `pointsman plan` on a copy of the directory: the
// same errors are printed, and nothing is changed.
package manifest

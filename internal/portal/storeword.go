package portal

import (
	"regexp"
	"strings"
)

// storeMessage finds a JSON string, or within one a template action, which names a field and is no word.
var (
	storeMessage = regexp.MustCompile(`"(?:[^"\\]|\\.)*"\s*:?`)
	storeWord    = regexp.MustCompile(`\{\{[^}]*\}\}|\b(?:[Ss]tore|Shop)(s?)\b`)
)

// callStore puts the operator's word in place of "store" in a message file. The words that an operator may choose behave
// alike in both languages (a store, a shop, a workspace; der Shop, der Workspace), so no sentence needs another form.
// German says Shop for a store.
func callStore(file []byte, word string) []byte {
	if word == "" || word == "store" {
		return file
	}
	return storeMessage.ReplaceAllFunc(file, func(text []byte) []byte {
		if text[len(text)-1] == ':' { // a key
			return text
		}
		return storeWord.ReplaceAllFunc(text, func(found []byte) []byte {
			switch name := string(found); {
			case name[0] == '{':
				return found
			case name[0] == 's':
				return []byte(word + strings.TrimPrefix(name, "store"))
			default:
				return []byte(strings.ToUpper(word[:1]) + word[1:] + strings.TrimPrefix(strings.TrimPrefix(name, "Store"), "Shop"))
			}
		})
	})
}

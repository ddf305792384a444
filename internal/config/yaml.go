package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// document reads one YAML document strictly and keeps going after a mistake, so
// that every mistake is reported with its line. Decoding into structs would stop
// at the first.
type document struct {
	file string // for messages; empty when there is none
	errs []error
}

// entry is one pair of a mapping.
type entry struct {
	key   string
	line  int
	value ast.Node
}

// errorAt notes a mistake in a line.
func (d *document) errorAt(line int, format string, args ...any) {
	d.errs = append(d.errs, errors.New(d.at(line)+": "+fmt.Sprintf(format, args...)))
}

// at names a line of the document.
func (d *document) at(line int) string {
	if d.file == "" {
		return fmt.Sprintf("line %d", line)
	}
	return fmt.Sprintf("%s:%d", d.file, line)
}

// root parses data and returns the pairs of the top mapping, none if there was a
// mistake or the document is empty.
func (d *document) root(data []byte) []entry {
	// The parser would stop at the first duplicate key; mapping reports them all.
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		line, message := 1, err.Error()
		if y, ok := errors.AsType[yaml.Error](err); ok {
			message = y.GetMessage()
			if t := y.GetToken(); t != nil && t.Position != nil {
				line = t.Position.Line
			}
		}
		d.errorAt(line, "not readable as YAML: %s", strings.ReplaceAll(message, "\n", " "))
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			d.errorAt(lineOf(doc.Body), "a second document begins here; write everything in one, without ---")
			return nil
		}
		body = doc.Body
	}
	if body == nil {
		return nil
	}
	return d.mapping(body, "the file")
}

// mapping returns the pairs of node, in order. what names the node in messages.
// Of a key given twice the first is kept.
func (d *document) mapping(node ast.Node, what string) []entry {
	var pairs []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		d.errorAt(lineOf(node), "%s is %s; write key: value pairs", what, shape(node))
		return nil
	}
	entries := make([]entry, 0, len(pairs))
	seen := make(map[string]int, len(pairs))
	for _, pair := range pairs {
		key, ok := keyText(pair.Key)
		line := lineOf(pair.Key)
		if !ok {
			d.errorAt(line, "a key is not plain text; write the pairs out in full, without anchors, tags, << or ?")
			continue
		}
		if first, dup := seen[key]; dup {
			d.errorAt(line, "%s is given twice, first in line %d; keep one of the two", key, first)
			continue
		}
		seen[key] = line
		entries = append(entries, entry{key, line, pair.Value})
	}
	return entries
}

// list returns the items of a sequence.
func (d *document) list(e entry) []ast.Node {
	seq, ok := e.value.(*ast.SequenceNode)
	if !ok {
		d.errorAt(e.line, "%s is %s; write a list, one item a line, each after \"- \"", e.key, shape(e.value))
		return nil
	}
	return seq.Values
}

// text returns a scalar as it is written, so that no, 1.10 and 0x1f stay what the
// operator typed.
func (d *document) text(e entry) (string, bool) {
	switch n := e.value.(type) {
	case *ast.StringNode:
		if n.Value != "" {
			return n.Value, true
		}
	case *ast.LiteralNode:
		if n.Value != nil && n.Value.Value != "" {
			return n.Value.Value, true
		}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.NullNode:
	default:
		d.errorAt(e.line, "%s is %s; write one value", e.key, shape(e.value))
		return "", false
	}
	d.errorAt(e.line, "%s is empty; give it a value, in quotes if it begins with #, or remove the line", e.key)
	return "", false
}

// keyText returns a key as it is written.
func keyText(key ast.MapKeyNode) (string, bool) {
	switch n := key.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// shape names what a node is, for people.
func shape(node ast.Node) string {
	switch node.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return "an anchor, alias or tag"
	}
	return "a single value"
}

func lineOf(node ast.Node) int {
	if node == nil {
		return 1
	}
	t := node.GetToken()
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
		t = m.Values[0].Key.GetToken() // the mapping's own token is a colon, perhaps of a later line
	}
	if t == nil || t.Position == nil {
		return 1
	}
	return t.Position.Line
}

// nearest returns the one of names that s was probably meant to be, or "".
func nearest(s string, names []string) string {
	best, least := "", max(2, len(s)/3)+1
	for _, name := range names {
		if n := distance(strings.ToLower(s), strings.ToLower(name)); n < least {
			best, least = name, n
		}
	}
	return best
}

// distance counts the letters to add, drop or change to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// meant is what to do about an unknown name: the name it resembles, or all there are.
func meant(s string, names []string) string {
	if n := nearest(s, names); n != "" {
		return "write " + n + " or remove it"
	}
	return "remove it; there are " + strings.Join(names, ", ")
}

package main

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/redbouncer/redbouncer/limits"
)

// editYAML returns the text of a file with other values in some entries. All lines but theirs stay as they are, byte by byte;
// an encoder would drop empty lines. Within an entry, comments stay with the values that stay. A new entry comes last.
func editYAML(text []byte, entries []entry) ([]byte, error) {
	var doc yaml.Node
	err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&doc)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	top := &yaml.Node{Kind: yaml.MappingNode}
	if len(doc.Content) > 0 {
		top = doc.Content[0]
	}
	if top.Kind != yaml.MappingNode || top.Style&yaml.FlowStyle != 0 {
		return nil, errors.New("want a line for each setting, such as maxclients: 10000")
	}
	lines := strings.SplitAfter(string(text), "\n")
	for i := len(top.Content) - 2; i >= 0; i -= 2 { // from the end: the lines before stay where they are
		key, val := top.Content[i], top.Content[i+1]
		j := slices.IndexFunc(entries, func(e entry) bool { return e.name == key.Value })
		if j < 0 {
			continue
		}
		first, last := key.Line-1, len(lines)
		if i+2 < len(top.Content) {
			last = top.Content[i+2].Line - 1
		}
		for last > first+1 && between(lines[last-1]) {
			last--
		}
		encoded, err := encodeEntry(key, edited(val, entries[j]))
		if err != nil {
			return nil, err
		}
		lines = slices.Replace(lines, first, last, encoded)
		entries = slices.Delete(slices.Clone(entries), j, j+1)
	}
	out := strings.Join(lines, "")
	for _, e := range entries {
		encoded, err := encodeEntry(&yaml.Node{Kind: yaml.ScalarNode, Value: e.name}, edited(&yaml.Node{}, e))
		if err != nil {
			return nil, err
		}
		if out != "" && !strings.HasSuffix(out, "\n") {
			out += "\n"
		}
		out += encoded
	}
	return []byte(out), nil
}

// between reports whether a line behind an entry is not of it: it is empty, a comment, or the mark of the document's end.
func between(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || line[0] == '#' || line == "..."
}

// encodeEntry returns the lines of an entry. The comments around it are on other lines.
func encodeEntry(key, val *yaml.Node) (string, error) {
	k, v := *key, *val
	k.HeadComment, k.FootComment, v.FootComment = "", "", ""
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	err := encoder.Encode(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{&k, &v}})
	if err == nil {
		err = encoder.Close()
	}
	if key.Column <= 1 {
		return out.String(), err
	}
	margin := strings.Repeat(" ", key.Column-1)
	return margin + strings.ReplaceAll(strings.TrimSuffix(out.String(), "\n"), "\n", "\n"+margin) + "\n", err
}

// edited returns a node with the values of an entry, which has the form of the one that was there as far as it can.
func edited(was *yaml.Node, e entry) *yaml.Node {
	if was.Kind == yaml.SequenceNode && !slices.Equal(e.values, []string{noNames}) {
		return editedList(was, e.values)
	}
	if len(e.values) == 1 {
		return scalar(was, e.values[0])
	}
	list := &yaml.Node{Kind: yaml.SequenceNode, HeadComment: was.LineComment}
	for _, value := range e.values {
		list.Content = append(list.Content, scalar(&yaml.Node{}, value))
	}
	return list
}

// editedList keeps the items that say what is among values, gives those that say something else of the same clients their
// value, and adds the rest.
func editedList(was *yaml.Node, values []string) *yaml.Node {
	list, left := *was, slices.Clone(values)
	list.Content = nil
	for _, item := range was.Content {
		i := slices.IndexFunc(left, func(v string) bool { return inForceText(v) == inForceText(item.Value) })
		if i >= 0 {
			list.Content = append(list.Content, item)
			left = slices.Delete(left, i, i+1)
			continue
		}
		if i = slices.IndexFunc(left, func(v string) bool { return headText(v) == headText(item.Value) }); i >= 0 {
			list.Content = append(list.Content, scalar(item, left[i]))
			left = slices.Delete(left, i, i+1)
		}
	}
	for _, value := range left {
		list.Content = append(list.Content, scalar(&yaml.Node{}, value))
	}
	return &list
}

// scalar returns a value in the place of another, with its comments and quotes.
func scalar(was *yaml.Node, value string) *yaml.Node {
	n := yaml.Node{
		Kind: yaml.ScalarNode, Value: value, HeadComment: was.HeadComment, LineComment: was.LineComment, FootComment: was.FootComment,
	}
	if was.Kind == yaml.ScalarNode {
		n.Style = was.Style & (yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle)
	}
	return &n
}

// inForceText is a rule as the proxy shows it. What is no rule is left as it is.
func inForceText(text string) string {
	rule, err := limits.ParseRule(text)
	if err != nil {
		return text
	}
	return rule.InForce()
}

// headText is the head of a rule.
func headText(text string) string {
	rule, err := limits.ParseRule(text)
	if err != nil {
		return text
	}
	return rule.Head()
}

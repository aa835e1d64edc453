package main

import (
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// check prints the settings in force, each with where it comes from, in a form that --config reads. Secrets are
// masked. That they are usable has been found out by now.
func check(inv *invocation, stdout, stderr io.Writer) error {
	doc := yaml.Node{Kind: yaml.MappingNode}
	for _, flag := range inv.table {
		if flag.Name == "config" {
			continue
		}
		s := row(flag)
		val := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, word := range s.inForce() {
			val.Content = append(val.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: word})
		}
		if len(val.Content) == 1 {
			val = val.Content[0]
		}
		val.LineComment = s.origin()
		doc.Content = append(doc.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: flag.Name}, val)
	}
	text, err := yaml.Marshal(&doc)
	if err != nil {
		return err
	}
	for _, name := range inv.stray {
		fmt.Fprintf(stderr, "redbouncer: the environment has %s, which is not a setting\n", name)
	}
	_, err = stdout.Write(text)
	return err
}

package main

import (
	"fmt"
	"slices"
	"strings"
)

// flags lists the names of the flags that a command takes, its own first.
func (c *command) flags() []string {
	names := slices.Concat(c.needs, c.takes)
	for _, f := range flags {
		if f.global {
			names = append(names, f.name)
		}
	}
	return names
}

// form is the flag with its value, as it is given.
func (f *flagSpec) form() string { return strings.TrimSpace("-" + f.name + " " + f.value) }

// title is the command's name with the flag that chooses it.
func (c *command) title() string {
	if c.form == "" {
		return c.name
	}
	return c.name + " -" + c.form
}

// usage is the command in one line: what may be left out stands in brackets.
func (c *command) usage() string {
	line := "keyctl " + c.name
	for _, name := range c.flags() {
		f := flagNamed(name)
		part := f.form()
		needed := slices.Contains(c.needs, name)
		switch {
		case f.global:
			continue
		case needed && f.many:
			part += " [" + part + " …]"
		case f.many:
			part = "[" + part + " …]"
		case !needed:
			part = "[" + part + "]"
		}
		line += " " + part
	}
	return line
}

// shortUsage is what follows an error about the command itself: its noun's commands,
// or how to find out.
func shortUsage(words []string) string {
	var b strings.Builder
	if len(words) > 0 {
		for i := range commands {
			if noun, _, _ := strings.Cut(commands[i].name, " "); noun == words[0] {
				fmt.Fprintf(&b, "usage: %s\n", commands[i].usage())
			}
		}
	}
	if b.Len() == 0 {
		return "usage: keyctl -url URL -token-file FILE COMMAND [flags] (`keyctl help` lists all commands)\n"
	}
	return b.String()
}

// printHelp prints the help for one command, for a noun's, or for all.
func printHelp(con console, words []string) int {
	if len(words) == 0 {
		_, _ = fmt.Fprint(con.out, helpText())
		return exitDone
	}
	cmd, problem := findCommand(words)
	switch {
	case cmd != nil:
		var forms []string
		for i := range commands {
			if commands[i].name == cmd.name {
				forms = append(forms, commands[i].help())
			}
		}
		_, _ = fmt.Fprint(con.out, strings.Join(forms, "\n"))
	case len(words) == 1 && len(verbsOf(words[0])) > 0:
		_, _ = fmt.Fprint(con.out, shortUsage(words))
	default:
		con.say("%s", problem)
		return exitUsage
	}
	return exitDone
}

func (c *command) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\nusage: %s\n\n", c.title(), c.does, c.usage())
	writeFlags(&b, c.flags())
	return b.String()
}

func helpText() string {
	var b strings.Builder
	b.WriteString("keyctl is the operator's command line of the key API.\n\nusage: keyctl COMMAND [flags]\n\ncommands:\n")
	t := table{}
	for _, c := range commands {
		t.rows = append(t.rows, []string{"  " + c.title(), c.does})
	}
	b.WriteString(t.String())
	b.WriteString("\nflags of every command, before or after it:\n")
	var global, own []string
	for _, f := range flags {
		if f.global {
			global = append(global, f.name)
		} else {
			own = append(own, f.name)
		}
	}
	writeFlags(&b, global)
	b.WriteString("\nflags of single commands (`keyctl COMMAND -h` tells which):\n")
	writeFlags(&b, own)
	b.WriteString("\nexit: 0 done, 1 refused or failed, 2 usage, 3 done but not yet effective when -wait ran out\n")
	return b.String()
}

func writeFlags(b *strings.Builder, names []string) {
	t := table{}
	for _, name := range names {
		f := flagNamed(name)
		help := f.help
		if f.env != "" {
			help += " (or " + f.env + ")"
		}
		t.rows = append(t.rows, []string{"  " + f.form(), help})
	}
	b.WriteString(t.String())
}

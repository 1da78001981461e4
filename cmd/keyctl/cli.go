package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

const about = `keyctl is the operators' command line for the key API.

A flag may have one dash or two, and may come before or after the command.
Each of these flags can be set by an environment variable instead:
--url by KEYCTL_URL, --token-file by KEYCTL_TOKEN_FILE, --ca-file by KEYCTL_CA_FILE,
--cert-file by KEYCTL_CERT_FILE and --key-file by KEYCTL_KEY_FILE. The command explain needs
none of them but --sidecar or KEYCTL_SIDECAR.

Exit codes: 0 done, 1 rejected or failed, 2 usage, 3 done but not yet effective when --wait ran out.`

const examples = `  keyctl account create -name "Ada"
  keyctl key mint -account ACCOUNT -label laptop -scope chat:companion -expires 90d
  keyctl key revoke -id KEY -wait 30s
  keyctl audit -account ACCOUNT -o json`

// cli is one run of the program.
type cli struct {
	con    console
	getenv func(string) string
	opts   options
	flags  *pflag.FlagSet // all that there are
	code   int            // exit code of the command

	explained explainFlags
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, con console) int {
	c := &cli{con: con, getenv: getenv}
	cmd := c.root()
	args, err := normalize(args, c.flags)
	cmd.SetArgs(args)
	if err == nil {
		cmd, err = cmd.ExecuteContextC(ctx)
	}
	if err != nil {
		con.say("%v\nSee `%s -h`.", err, cmd.CommandPath())
		return exitUsage
	}
	return c.code
}

// root makes the tree of commands. All errors of its commands are usage errors.
func (c *cli) root() *cobra.Command {
	c.flags = newFlags(&c.opts)
	c.explained.define(c.flags)
	root := group(&command{name: "keyctl", short: "The operators' command line for the key API", long: about})
	root.Example, root.Version = examples, daemon.Version()
	root.SetVersionTemplate("keyctl {{.Version}}\n")
	root.Flags().Bool("version", false, "print the version") // cobra's own also has -v
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(c.con.out)
	root.SetErr(c.con.err)
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	for _, f := range globalFlags {
		root.PersistentFlags().AddFlag(c.flags.Lookup(f.name))
		completeFlag(root, f.name)
	}
	for _, title := range []string{access, operation, tool} {
		root.AddGroup(&cobra.Group{ID: title, Title: title})
	}
	parents := map[string]*cobra.Command{}
	for i := range commands {
		row := &commands[i]
		noun, verb, found := strings.Cut(row.name, " ")
		switch {
		case found:
			parents[noun].AddCommand(c.leaf(verb, row))
		case row.list != nil:
			root.AddCommand(c.leaf(row.name, row))
		default:
			parents[noun] = group(row)
			root.AddCommand(parents[noun])
		}
	}
	root.AddCommand(c.explain())
	c.addTools(root)
	return root
}

// addTools adds the commands that send no request. The help and completion commands are those of
// cobra, but an unknown command is a usage error instead of help.
func (c *cli) addTools(root *cobra.Command) {
	root.AddCommand(c.manual())
	root.SetHelpCommandGroupID(tool)
	root.SetCompletionCommandGroupID(tool)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Run, cmd.RunE = nil, showHelp
		case "completion":
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, unknownCommand
		}
	}
}

// group makes a command that only has subcommands.
func group(row *command) *cobra.Command {
	return &cobra.Command{
		Use: row.name, GroupID: row.group, Short: row.short, Long: row.long, Args: cobra.ArbitraryArgs, RunE: unknownCommand,
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}, // the error is the unknown command, not its flags
	}
}

// unknownCommand is the error for arguments that name no subcommand.
func unknownCommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if len(args) == 0 {
		return fmt.Errorf("missing command after %q: must be one of %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	return fmt.Errorf("unknown command %q after %q%s: must be one of %s",
		args[0], cmd.CommandPath(), didYouMean(cmd, "", args[0]), strings.Join(names, ", "))
}

// leaf makes a command that sends requests.
func (c *cli) leaf(name string, row *command) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, GroupID: row.group, Short: row.short, Long: row.long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unexpected argument %q after %q: IDs and names are given by flags", args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.readEnvironment(cmd.Flags()); err != nil {
				return err
			}
			s, err := connect(c.opts, c.con)
			if err != nil {
				return err
			}
			defer s.client.Close()
			c.code = s.do(cmd.Context(), row)
			return nil
		},
	}
	for _, name := range strings.Fields(row.needs + " " + row.takes) {
		flag := *c.flags.Lookup(name) // a copy, because a flag may be required by one command only
		cmd.Flags().AddFlag(&flag)
		completeFlag(cmd, name)
	}
	for _, name := range strings.Fields(row.needs) {
		_ = cmd.MarkFlagRequired(name)
		value, _ := pflag.UnquoteUsage(cmd.Flag(name))
		cmd.Use += " --" + name + " " + value
	}
	if row.exclusions != nil {
		row.exclusions(cmd)
	}
	return cmd
}

// completeFlag offers files or formats as values of a flag.
func completeFlag(cmd *cobra.Command, name string) {
	switch value, _ := pflag.UnquoteUsage(cmd.Flag(name)); value {
	case "FILE":
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault))
	case "FORMAT":
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	}
}

// readEnvironment sets global flags that are not given from the environment.
func (c *cli) readEnvironment(flags *pflag.FlagSet) error {
	var missing []string
	for _, f := range globalFlags {
		switch value := c.getenv(f.variable); {
		case flags.Changed(f.name):
		case value != "":
			_ = flags.Set(f.name, value) // these flags accept any text
		case f.required:
			missing = append(missing, fmt.Sprintf("--%s (or %s)", f.name, f.variable))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing %s", strings.Join(missing, " and "))
	}
	return nil
}

// flagError adds the nearest names to the error for an unknown flag.
func flagError(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return err
	}
	names := &cobra.Command{} // its subcommands are the flags, because cobra makes suggestions for commands only
	var all []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
		all = append(all, "--"+f.Name)
	})
	name := unknown.GetSpecifiedName()
	return fmt.Errorf("unknown flag %q of %q%s: must be one of %s",
		"--"+name, cmd.CommandPath(), didYouMean(names, "--", name), strings.Join(all, ", "))
}

// didYouMean suggests the nearest subcommand, which differs in at most two letters.
func didYouMean(cmd *cobra.Command, prefix, typed string) string {
	for distance := 1; distance <= min(2, len(typed)-1); distance++ {
		cmd.SuggestionsMinimumDistance = distance
		if names := cmd.SuggestionsFor(typed); len(names) > 0 {
			return fmt.Sprintf(" (did you mean %q?)", prefix+names[0])
		}
	}
	return ""
}

func showHelp(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return unknownCommand(found, rest)
	}
	found.InitDefaultHelpFlag()
	found.InitDefaultVersionFlag()
	return found.Help()
}

func (c *cli) manual() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write manual pages, one for each command, into a directory", GroupID: tool,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true // a date would make each build differ
			header := &doc.GenManHeader{Title: "KEYCTL", Section: "1", Source: "keyctl " + root.Version, Manual: "Key API"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				c.con.say("write manual pages: %v", err)
				c.code = exitFailed
			}
			return nil
		},
	}
}

// normalize writes flags in the form that cobra parses in any position: with two dashes, and
// the value after "=". The next argument is the value unless it is a known flag itself.
func normalize(args []string, flags *pflag.FlagSet) ([]string, error) {
	if slices.ContainsFunc(args, credential.ContainsPlaintext) {
		return nil, errors.New("arguments must not hold the plaintext of a key or session: use its ID (key_…, ses_…)")
	}
	completion := len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd)
	var out []string
	given := map[string]bool{}
	for i := 0; i < len(args); i++ {
		name, value, hasValue := parseFlag(args[i])
		flag := flags.Lookup(name)
		switch {
		case args[i] == "--":
			return append(out, args[i:]...), nil
		case name == "":
			out = append(out, args[i])
			continue
		case name == "version" && !hasValue && !completion:
			return []string{"--version"}, nil // cobra accepts it only before a command
		case flag == nil:
		case given[name] && name != "scope" && name != "require-scope" && !completion:
			return nil, fmt.Errorf("flag given more than once: --%s", name)
		case hasValue:
		case flag.NoOptDefVal != "":
			value, hasValue = flag.NoOptDefVal, true
		case i+1 < len(args) && !isFlag(args[i+1], flags):
			i++
			value, hasValue = args[i], true
		case i+1 < len(args) && !completion:
			return nil, fmt.Errorf("flag needs an argument: --%s", name)
		}
		given[name] = true
		arg := "--" + name
		if hasValue {
			arg += "=" + value
		}
		out = append(out, arg)
	}
	return out, nil
}

// parseFlag splits an argument that is a flag. The name is "" if it is not one.
func parseFlag(arg string) (name, value string, hasValue bool) {
	if len(arg) < 2 || arg[0] != '-' {
		return "", "", false
	}
	name, value, hasValue = strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
	if long, ok := map[string]string{"h": "help", "o": "output"}[name]; ok {
		name = long
	}
	return name, value, hasValue
}

// isFlag reports whether an argument is a known flag. A value may begin with a dash, and one that
// looks like a known flag can be written as -label=-id.
func isFlag(arg string, flags *pflag.FlagSet) bool {
	name, _, _ := parseFlag(arg)
	return name == "help" || name == "version" || flags.Lookup(name) != nil
}

package portal

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Brand is the operator's face on every page.
type Brand struct {
	Name    string // shown in sentences and titles; default "Grantway"
	Logo    []byte // PNG, JPEG, WebP or SVG, served from this origin; without it the first letter of Name stands there
	Accent  string // "#rrggbb"; what is drawn with it is kept readable whatever the colour
	Support string // where people get help: https or mailto
	Privacy string // URL of the operator's privacy notice
	Terms   string // URL of the operator's terms
	Store   string // what a store is called here: store (default), shop or workspace
}

const defaultAccent = "#0b5a7a"

// The grounds that links and buttons stand on, as style.css sets them.
var (
	lightGrounds = []colour{mustColour("#f5f4f1"), mustColour("#ffffff")}
	darkGrounds  = []colour{mustColour("#131312"), mustColour("#1d1c1b")}
	white, black = colour{255, 255, 255}, colour{0, 0, 0}
	ink          = mustColour("#14120f")
)

type colour [3]float64

func parseColour(s string) (colour, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "#"), 16, 32)
	if err != nil || len(s) != 7 || s[0] != '#' {
		return colour{}, fmt.Errorf("portal: accent %q is not a colour such as %s", s, defaultAccent)
	}
	return colour{float64(n >> 16), float64(n >> 8 & 255), float64(n & 255)}, nil
}

func mustColour(s string) colour {
	c, err := parseColour(s)
	if err != nil {
		panic(err)
	}
	return c
}

func (c colour) String() string {
	return fmt.Sprintf("#%02x%02x%02x", int(math.Round(c[0])), int(math.Round(c[1])), int(math.Round(c[2])))
}

// luminance is WCAG 2's relative luminance.
func (c colour) luminance() float64 {
	var l float64
	for i, weight := range [3]float64{0.2126, 0.7152, 0.0722} {
		v := c[i] / 255
		if v <= 0.04045 {
			v /= 12.92
		} else {
			v = math.Pow((v+0.055)/1.055, 2.4)
		}
		l += weight * v
	}
	return l
}

// contrast is WCAG 2's contrast ratio, 1 to 21.
func contrast(a, b colour) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// toward mixes c with end in steps of 2 % until it has the wanted contrast with each ground.
func (c colour) toward(end colour, wanted float64, grounds []colour) colour {
	for step := 0.0; step <= 1; step += 0.02 {
		mixed := mustColour(colour{c[0] + (end[0]-c[0])*step, c[1] + (end[1]-c[1])*step, c[2] + (end[2]-c[2])*step}.String())
		enough := true
		for _, g := range grounds {
			enough = enough && contrast(mixed, g) >= wanted
		}
		if enough {
			return mixed
		}
	}
	return end
}

// textOn is the colour of words on c: white or near-black where that gives 4.5:1, else black, which then does.
func textOn(c colour) colour {
	for _, text := range []colour{white, ink} {
		if contrast(text, c) >= 4.5 {
			return text
		}
	}
	return black
}

// stylesheet is brand.css. The accent itself fills buttons in light mode; in dark mode it is lifted until it stands out
// from the page (3:1). Links and the edges of accent buttons use a shade that is readable as text (4.5:1).
func (b Brand) stylesheet() (string, error) {
	accent, err := parseColour(b.Accent)
	if err != nil {
		return "", err
	}
	dark := accent.toward(white, 3, darkGrounds)
	block := func(fill, link colour) string {
		return fmt.Sprintf("--accent:%s;--accent-text:%s;--link:%s", fill, textOn(fill), link)
	}
	return fmt.Sprintf(":root{%s}\n@media (prefers-color-scheme: dark){:root{%s}}\n",
		block(accent, accent.toward(black, 4.5, lightGrounds)),
		block(dark, dark.toward(white, 4.5, darkGrounds))), nil
}

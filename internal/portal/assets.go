package portal

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed assets templates messages
var files embed.FS

// assets are served under names that carry a hash of the content, so they may be kept for a year and a new version is
// a new name.
type assets struct {
	path map[string]string // "style.css" → "/assets/style.<hash>.css"
	body map[string]asset  // by that path
}

type asset struct {
	content  []byte
	mimeType string
}

func newAssets(brand Brand) (*assets, error) {
	a := &assets{path: map[string]string{}, body: map[string]asset{}}
	entries, err := fs.ReadDir(files, "assets")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		content, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			return nil, err
		}
		a.add(e.Name(), content)
	}
	css, err := brand.stylesheet()
	if err != nil {
		return nil, err
	}
	a.add("brand.css", []byte(css))
	if len(brand.Logo) > 0 {
		a.add("logo"+logoType(brand.Logo), brand.Logo)
		a.path["logo"] = a.path["logo"+logoType(brand.Logo)]
	}
	return a, nil
}

func (a *assets) add(name string, content []byte) {
	sum := sha256.Sum256(content)
	ext := path.Ext(name)
	p := "/assets/" + strings.TrimSuffix(name, ext) + "." + hex.EncodeToString(sum[:6]) + ext
	a.path[name] = p
	a.body[p] = asset{content, mimeTypes[ext]}
}

// mimeTypes are said here: what package mime says depends on what is installed on the machine, and is a table of a
// thousand.
var mimeTypes = map[string]string{
	".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp",
}

func logoType(logo []byte) string {
	switch http.DetectContentType(logo) {
	case "image/png":
		return ".png"
	case "image/jpeg":
		return ".jpg"
	case "image/webp":
		return ".webp"
	}
	return ".svg"
}

func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	found, ok := a.body[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", found.mimeType)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	// An SVG opened by itself is a document and could run scripts.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(found.content))
}

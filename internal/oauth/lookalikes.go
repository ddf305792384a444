package oauth

import (
	"strings"
	"unicode"
)

// skeletons are what is left of a name when case, accents, spaces and punctuation are
// taken out: of its letters as they are, and as they look. Names that share one look alike
// in a hurry (attack B6). It takes both, because the great and the small form of a letter
// may look like two others.
func skeletons(name string) [2]string {
	var plain, drawn strings.Builder
	for _, r := range name {
		switch {
		case isBar(r): // says nothing
			drawn.WriteRune('l')
			continue
		case unicode.IsMark(r) && !unicode.In(r, unicode.Inherited, unicode.Latin, unicode.Greek, unicode.Cyrillic, unicode.Hebrew, unicode.Arabic):
			// a vowel, as in Devanagari or Thai
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			continue
		case unicode.IsDigit(r):
			r = '0' + digit(r)
		}
		if base, ok := bases[r]; ok {
			r = base
		}
		plain.WriteRune(unicode.ToLower(r))
		if r >= 0xab70 && r <= 0xabbf {
			r = unicode.ToUpper(r) // Cherokee draws its small letters like the great ones
		}
		if like, ok := lookAlikes[r]; ok {
			r = like
		}
		switch r = unicode.ToLower(r); r {
		case 'i', '1': // I and l
			r = 'l'
		case '0':
			r = 'o'
		}
		drawn.WriteRune(r)
	}
	return [2]string{plain.String(), drawn.String()}
}

// isBar reports whether r is drawn like l.
func isBar(r rune) bool { return r == '|' || r == '\u2223' }

// digit is the value of a decimal digit of any script: they stand in tens, 0 first.
func digit(r rune) (value rune) {
	for value < 9 && unicode.IsDigit(r-value-1) {
		value++
	}
	return value
}

// speaksOf reports whether a name could be taken for one that has another's name in it:
// at its beginning, or where any later word of it begins, however it is spaced.
func speaksOf(name, other string) bool {
	those := skeletons(other)
	last := ' '
	for at, r := range name {
		starts := (unicode.IsLetter(r) || unicode.IsDigit(r) || isBar(r)) &&
			(!unicode.IsLetter(last) && !unicode.IsDigit(last) || unicode.IsUpper(r) && !unicode.IsUpper(last)) // HarbourHelp is two words
		if starts {
			these := skeletons(name[at:])
			for i, that := range those {
				if that != "" && strings.HasPrefix(these[i], that) {
					return true
				}
			}
		}
		if !unicode.IsMark(r) { // an accent ends no word
			last = r
		}
	}
	return false
}

// alike reports whether two names could be taken for each other.
func alike(name, other string) bool {
	these, those := skeletons(name), skeletons(other)
	return these[0] == those[0] || these[1] == those[1]
}

// bases maps letters that carry accents and strokes of Latin, Greek and Cyrillic to those
// that do not: of each group the first is what the others come down to.
var bases = func() map[rune]rune {
	all := map[rune]rune{'İ': 'I', '\u212b': 'A'}
	for _, group := range [...]string{
		"aàáâãäåāăąǎǟǡǻȁȃȧḁạảấầẩẫậắằẳẵặⱥ", "bḃḅḇƀ", "cçćĉċčḉȼ", "dďḋḍḏḑḓđ", "eèéêëēĕėęěȅȇȩḕḗḙḛḝẹẻẽếềểễệɇ", "fḟ", "gĝğġģǧǵḡǥ", "hĥȟḣḥḧḩḫẖħ",
		"iìíîïĩīĭįǐȉȋḭḯỉịɨ", "jĵǰɉ", "kķǩḱḳḵ", "lĺļľḷḹḻḽłƚ", "mḿṁṃ", "nñńņňǹṅṇṉṋ", "oòóôõöōŏőơǒǫǭȍȏȫȭȯȱṍṏṑṓọỏốồổỗộớờởỡợøǿ", "pṕṗ", "rŕŗřȑȓṙṛṝṟɍ",
		"sśŝşšșṡṣṥṧṩ", "tţťțṫṭṯṱẗŧⱦ", "uùúûüũūŭůűųưǔǖǘǚǜȕȗṳṵṷṹṻụủứừửữựʉ", "vṽṿ", "wŵẁẃẅẇẉẘ", "xẋẍ", "yýÿŷȳẏẙỳỵỷỹɏ", "zźżžẑẓẕƶ", "æǣǽ", "ſẛ", "ʒǯ",
		"αάἀἁἂἃἄἅἆἇὰᾀᾁᾂᾃᾄᾅᾆᾇᾰᾱᾲᾳᾴᾶᾷ\u1f71", "εέἐἑἒἓἔἕὲ\u1f73", "ηήἠἡἢἣἤἥἦἧὴᾐᾑᾒᾓᾔᾕᾖᾗῂῃῄῆῇ\u1f75", "ιΐίϊἰἱἲἳἴἵἶἷὶῐῑῒῖῗ\u1f77\u1fd3\u1fbe", "οόὀὁὂὃὄὅὸ\u1f79", "ρῤῥ",
		"υΰϋύὐὑὒὓὔὕὖὗὺῠῡῢῦῧ\u1f7b\u1fe3", "ωώὠὡὢὣὤὥὦὧὼᾠᾡᾢᾣᾤᾥᾦᾧῲῳῴῶῷ\u1f7d", "ϒϓϔ", "ʹ\u0374",
		"аӑӓ", "гѓ", "еѐёӗ", "жӂӝ", "зӟ", "ийѝӣӥ", "кќ", "оӧ", "уўӯӱӳ", "чӵ", "ыӹ", "эӭ", "ії", "ѵѷ", "әӛ", "өӫ",
	} {
		letters := []rune(group)
		for _, r := range letters[1:] {
			all[unicode.ToUpper(r)], all[unicode.ToTitle(r)] = unicode.ToUpper(letters[0]), unicode.ToUpper(letters[0])
			all[r] = letters[0]
		}
	}
	return all
}()

// lookAlikes maps letters of other scripts, and other letters of the Latin one, to the
// plain letters that most typefaces draw like them: of the confusables of UTS 39,
// those with which a whole name can be written in one script.
var lookAlikes = func() map[rune]rune {
	all := map[rune]rune{}
	for _, pair := range [...][2]string{
		{"АВЕЅІЈКМНОРСТУҮХԚԜӀГԌ", "ABESIJKMHOPCTYYXQWlrG"}, // Cyrillic
		{"авеѕіјкмнорстуүхԁһԛԝӏѵгԍ", "abesijkmhopctyyxdhqwlvrg"},
		{"ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹͿ", "ABEZHIKMNOPTYXCJ"}, // Greek
		{"αγικνορστυχϲϳ", "ayikvopotuxcj"},
		{"ՏՕՍԼօսոհցզյքա", "SOULounhgqjpw"},                                               // Armenian
		{"ᎠᎡᎢᎥᎩᎪᎫᎬᎳᎷᎻᎽᏀᏃᏏᏒᏔᏙᏚᏞᏟᏢᏦᏧᏴᎯᏎ", "DRTiYAJEWMHYGZbRWVSLCPKdBb4"},                   // Cherokee
		{"ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ", "BPDTGKJCZFMNLSRVHWXYAEIOU"},                       // Lisu
		{"ɑᴀʙᴄᴅᴇꜰɡɢʜɩıɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢſɾʋⱺǀƖªº", "aabcdefgghiiijklmnoprstuvwyzsruollao"}, // Latin
	} {
		like := []rune(pair[1])
		for i, r := range []rune(pair[0]) {
			all[r] = like[i]
		}
	}
	return all
}()
